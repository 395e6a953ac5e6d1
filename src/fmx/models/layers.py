"""The layers of a network in their order, for rates and freezing by depth."""

from collections import Counter
from collections.abc import Iterable, Iterator

from torch import nn

from fmx.models.adapted_net import AdaptedNet

__all__ = ["layers", "named_parameters"]

CONTAINERS = (nn.Sequential, nn.ModuleList)
MATRIX = 2  # dimensions of a weight; vectors are biases, and weights of normalisations
MANY = 2  # equal blocks, or weights of a block


def named_parameters(net: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a network by name; those of a library's network have the library's names."""
    prefix = _prefix(net)
    return {name.removeprefix(prefix): parameter for name, parameter in net.named_parameters()}


def layers(net: nn.Module) -> dict[str, list[str]]:
    """The names of the parameters of each layer, in the order in which the network names its parts.

    A layer is a block, of which the network has several of one class, or a single module with a weight. A layer has the
    normalisation after it too, and embeddings belong to the layer after them.
    """
    inner = net.net if isinstance(net, AdaptedNet) else net
    names = {
        id(parameter): name for name, parameter in named_parameters(net).items()
    }  # a shared one has its first name
    found: dict[str, list[str]] = {}
    waiting: list[str] = []  # for the layer after them
    for place, module, is_whole in _parts(inner, "", Counter(type(each) for each in inner.modules())):
        parameters = {id(each): each for each in module.parameters(recurse=is_whole) if id(each) in names}
        taken = [names.pop(each) for each in parameters]
        if not is_whole:
            waiting += taken
        elif any(each.dim() >= MATRIX for each in parameters.values()) or not found:
            found[place] = waiting + taken
            waiting = []
        else:
            found[[*found][-1]] += taken
    if waiting:
        found.setdefault([*found][-1] if found else "", []).extend(waiting)
    last = [name for name in found if isinstance(net, AdaptedNet) and _is_below(name, net.last)]
    joined = [each for name in last for each in found.pop(name)]
    return found | ({last[0]: joined} if last else {})


def _parts(module: nn.Module, place: str, classes: Counter[type[nn.Module]]) -> Iterator[tuple[str, nn.Module, bool]]:
    """Each part with parameters, and whether all below it belong together; else only its own parameters count."""
    if place and not _is_opened(module, classes):
        if any(True for _ in module.parameters()):
            yield place, module, True
        return
    if any(True for _ in module.parameters(recurse=False)):
        yield place, module, False
    for name, child in module.named_children():
        yield from _parts(child, f"{place}.{name}" if place else name, classes)


def _is_opened(module: nn.Module, classes: Counter[type[nn.Module]]) -> bool:
    """Whether a module holds several layers: a container, a part that is the only one of its class, or a stage."""
    if not any(True for _ in module.children()):
        return False
    return isinstance(module, CONTAINERS) or classes[type(module)] == 1 or any(map(_is_stack, module.modules()))


def _is_stack(module: nn.Module) -> bool:
    """Whether a container holds several blocks of one class, each with several weights."""
    if not isinstance(module, CONTAINERS):
        return False
    blocks = Counter(
        type(each)
        for each in module
        if not isinstance(each, CONTAINERS) and sum(p.dim() >= MATRIX for p in each.parameters()) >= MANY
    )
    return any(number >= MANY for number in blocks.values())


def _is_below(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def _prefix(net: nn.Module) -> str:
    return "net." if isinstance(net, AdaptedNet) else ""
