"""Routed experts as a few matrix products: tokens sorted by expert, one product per expert.

Rows of the sorted layout: token n's k-th expert is row place[n, k]; row r belongs to token
token[r]. The routed weights' gradients are added to buffers that the caller owns, in f32, because
a gradient that autograd hands over would be another copy of every expert.
"""

import torch


class Plan:
    """Who computes what: expert ids [tokens, top] to sorted rows."""

    def __init__(self, ids, experts):
        tokens, top = ids.shape
        flat = ids.reshape(-1)
        order = torch.argsort(flat, stable=True)
        self.token = order // top
        self.place = torch.empty_like(order)
        self.place[order] = torch.arange(order.numel())
        self.place = self.place.view(tokens, top)
        self.counts = torch.bincount(flat, minlength=experts)
        self.bounds = [0] + torch.cumsum(self.counts, 0).tolist()


class Dispatch(torch.autograd.Function):
    """x [tokens, width] to sorted rows [tokens * top, width]."""

    @staticmethod
    def forward(context, x, plan):
        context.plan = plan
        return x.index_select(0, plan.token)

    @staticmethod
    def backward(context, gradient):
        tokens, top = context.plan.place.shape
        rows = gradient.index_select(0, context.plan.place.view(-1))
        return rows.view(tokens, top, -1).sum(1), None


class Combine(torch.autograd.Function):
    """Sorted rows [tokens * top, width] summed to tokens [tokens, width], in f32."""

    @staticmethod
    def forward(context, rows, plan):
        context.plan, context.dtype = plan, rows.dtype
        tokens, top = plan.place.shape
        return (
            rows.index_select(0, plan.place.view(-1))
            .view(tokens, top, -1)
            .sum(1, dtype=torch.float32)
        )

    @staticmethod
    def backward(context, gradient):
        return gradient.to(context.dtype).index_select(0, context.plan.token), None


class GroupedLinear(torch.autograd.Function):
    """rows [n, in] times each expert's weight [out, in]: [n, out], in the dtype of both.

    weight is [experts, out, in] without autograd; its gradient is added to `gradient` of that
    shape, f32, or nowhere if that is None.
    """

    @staticmethod
    def forward(context, rows, weight, gradient, plan):
        context.save_for_backward(rows, weight)
        context.gradient, context.plan = gradient, plan
        out = torch.empty(rows.shape[0], weight.shape[1], dtype=rows.dtype)
        for e, (begin, end) in enumerate(zip(plan.bounds, plan.bounds[1:])):
            if end > begin:
                torch.mm(rows[begin:end], weight[e].t(), out=out[begin:end])
        return out

    @staticmethod
    def backward(context, upstream):
        rows, weight = context.saved_tensors
        plan, gradient = context.plan, context.gradient
        upstream = upstream.contiguous()
        out = torch.empty_like(rows)
        update = torch.zeros_like(weight)
        for e, (begin, end) in enumerate(zip(plan.bounds, plan.bounds[1:])):
            if end > begin:
                torch.mm(upstream[begin:end], weight[e], out=out[begin:end])
                torch.mm(upstream[begin:end].t(), rows[begin:end], out=update[e])
        if gradient is not None:
            gradient.add_(update)
        return out, None, None, None
