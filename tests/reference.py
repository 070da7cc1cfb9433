"""Weight asynchronous update written the slow and obvious way: slice by slice, in plain loops."""

import math

import torch


def splitmix64(key_hash, count):
    """SplitMix64 in Python's integers, as numbers in [0, 1)."""
    mask, numbers, state = 2**64 - 1, [], key_hash
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        numbers.append((z >> 11) / 2**53)
    return numbers


def draws_of_authors(numbers, num_slices, update_ratio):
    """``k = floor(C * rate)`` draws with replacement, at least one."""
    k = max(1, math.floor(num_slices * update_ratio))
    return {math.floor(number * num_slices) for number in numbers[:k]}


def slices_of(tensor, dim):
    return [tensor.select(dim, index) for index in range(tensor.size(dim))]


def reference_step(optimizer, layers, active, hold, rescale):
    """Make one optimizer step in which the slices that are not active are held."""
    for layer, mask in zip(layers, active, strict=True):
        for param, dim in layer.tensors:
            for index, is_active in enumerate(mask.tolist()):
                if hold in ('state', 'grad') and not is_active and param.grad is not None:
                    slices_of(param.grad, dim)[index].zero_()
    weights = {id(p): p.detach().clone() for g in optimizer.param_groups for p in g['params']}
    states = {
        (id(param), key): value.clone()
        for param, state in optimizer.state.items()
        for key, value in state.items()
        if torch.is_tensor(value)
    }
    optimizer.step()
    with torch.no_grad():
        for layer, mask in zip(layers, active, strict=True):
            fraction = mask.sum().item() / len(mask)
            for param, dim in layer.tensors:
                before = slices_of(weights[id(param)], dim)
                for index, is_active in enumerate(mask.tolist()):
                    now = slices_of(param, dim)[index]
                    if not is_active and hold != 'grad':
                        now.copy_(before[index])
                    if is_active and rescale and fraction < 1:
                        now.copy_(before[index] + (now - before[index]) / fraction)
                    if is_active or hold != 'state':
                        continue
                    for key, value in optimizer.state[param].items():
                        if torch.is_tensor(value) and value.shape == param.shape:
                            old = states.get((id(param), key), torch.zeros_like(value))
                            slices_of(value, dim)[index].copy_(slices_of(old, dim)[index])
