"""The scope that owns every side effect on a model: its edits, its hooks, what it captures.

The edits of a scope travel in a `ContextVar`, so two threads with different prompts on one model never mix; hooks that
one thread's scope puts on a module do nothing in another's. Everything is undone on exit, also when something raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from visprompt.attention.decoder_positions import TokenPositions
from visprompt.attention.packed_positions import PackedPositions
from visprompt.attention.program import SiteProgram
from visprompt.attention.prompt_tokens import Insertion
from visprompt.attention.row_math import contributions
from visprompt.attention.sites import Site, Tower
from visprompt.errors import SiteNotReachedError, UnsupportedError

_current: ContextVar[Scope | None] = ContextVar("visprompt_scope", default=None)


class Enough(Exception):
    """Ends a forward of which everything that was wanted is there; whoever opened the scope with `stop` catches it."""


_training_scopes: list[Scope] = []
_lock = threading.RLock()


def current_scope(module: nn.Module) -> Scope | None:
    """The innermost scope that has something to do in `module`, or None.

    Inside a backward pass autograd may run on a thread of its own, where the `ContextVar` is not set: recomputation
    under gradient checkpointing then finds its scope among those that are open with gradients on.
    """
    scope = _current.get()
    while scope is not None and id(module) not in scope.programs_by_module:
        scope = scope.parent
    if scope is None and _training_scopes and torch._C._current_graph_task_id() != -1:
        open_here = [item for item in _training_scopes if id(module) in item.programs_by_module]
        if len(open_here) > 1:
            raise UnsupportedError(
                "gradient checkpointing recomputes a block while several prompt scopes are open on this model: run one "
                "forward and backward pass at a time."
            )
        return open_here[0] if open_here else None
    return scope


def is_open_on(tower: Tower) -> bool:
    """True if a scope on this tower, with or without prompt tokens in it, is open in this context."""
    scope = _current.get()
    while scope is not None and scope.tower.blocks is not tower.blocks:
        scope = scope.parent
    return scope is not None


class Scope:
    """Attention edits on one tower for the time of a `with` block (forward, and backward if gradients are wanted).

    Args:
        tower: whose sites.
        programs: what happens at each site.
        install: puts the hooks in place that the sites need; `visprompt.attention.engine.open_scope` gives it.
        sharing: shares the blocks before the first edit between prompts on one image; None: every stream runs whole.
        device: where the programs' numbers go.
        timeline: for a decoder, or a tower that packs images: where its rows and columns are, call by call.
        tokens: prompt tokens in the sequence; `tower` and `programs` are made for its own tower then.
        stop: raise `Enough` as soon as every site has answered: nothing after the last one is computed.

    Raises:
        SiteNotReachedError: on exit, if a site never answered or tokens went nowhere: nothing silently does nothing.
        UnsupportedError: on entry, if an edit needs hooks and the model is compiled.
    """

    def __init__(
        self,
        tower: Tower,
        programs: dict[Site, SiteProgram],
        install: Callable[[Scope], None],
        sharing: Any = None,
        device: torch.device | None = None,
        timeline: TokenPositions | PackedPositions | None = None,
        tokens: Insertion | None = None,
        stop: bool = False,
    ) -> None:
        self.tower, self.timeline, self.tokens, self.stop = tower, timeline, tokens, stop
        self._install = install
        self.programs = {site: item if device is None else item.to(device) for site, item in programs.items()}
        self.programs_by_module = {id(site.module): site for site in programs}
        self.sharing = sharing
        self.parent: Scope | None = None
        self.attention: dict[Site, Tensor] = {}
        self.decomposition: dict[Site, Tensor] = {}
        self.outputs: dict[Site, Tensor] = {}
        #: a decoder's maps, `[n, H, R, P]` for every call that read
        self.steps: dict[Site, list[Tensor]] = {}
        self.fired: set[Site] = set()
        self._hooks: list[Any] = []
        self._token: Token[Scope | None] | None = None
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Scope:
        self.parent = _current.get()
        self._token = _current.set(self)
        try:
            if torch.is_grad_enabled():
                with _lock:
                    _training_scopes.append(self)
                self._undo.append(self._leave_training)
            self._install(self)
            if self.tokens is not None:
                self.tokens.install(self)
            if self.sharing is not None:
                self.sharing.install(self)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if kind is None:
            silent = [site for site in self.programs if site not in self.fired]
            if silent:
                raise SiteNotReachedError(
                    f"{', '.join(map(repr, silent))} never ran, so the prompt did not act there. The "
                    "model was run another "
                    "way than the one it was wrapped for (unfused attention, a compiled or replaced block)."
                )
            if self.tokens is not None:
                self.tokens.check_reached()

    def _leave_training(self) -> None:
        with _lock:
            _training_scopes.remove(self)

    def _close(self) -> None:
        try:
            for handle in self._hooks:
                handle.remove()
            self._hooks.clear()
            while self._undo:
                self._undo.pop()()
        finally:
            if self._token is not None:
                _current.reset(self._token)
                self._token = None

    # -- used by backends ---------------------------------------------------------------------------------------------

    def hook_before(self, module: nn.Module, call: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        """Runs `call(module, args, kwargs)` before the module, in this scope's context only."""

        # Other threads' calls may see the hook while it is half registered or half removed, and then pass no kwargs.
        def hook(owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
            return call(owner, args, kwargs or {}) if self.is_active() else None

        self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def hook_after(
        self,
        module: nn.Module,
        call: Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any],
        always: bool = False,
        first: bool = False,
    ) -> None:
        """Runs `call(module, args, kwargs, output)` after the module, in this scope's context only; with `always` also
        when the module raises (the output is None then), with `first` before all other hooks that are there."""

        def hook(owner: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:  # rest: (kwargs, output), or see above
            return call(owner, args, *rest) if self.is_active() else None

        handle = module.register_forward_hook(hook, with_kwargs=True, always_call=always, prepend=first)
        self._hooks.append(handle)

    def is_active(self) -> bool:
        """True in the thread and context that opened this scope (or in its backward pass)."""
        scope = innermost = _current.get()
        while scope is not None:
            if scope is self:
                return True
            scope = scope.parent
        # A thread with scopes of its own goes backward through these; autograd's own threads have none.
        return innermost is None and self in _training_scopes and torch._C._current_graph_task_id() != -1

    def program(self, site: Site, query: Tensor | None = None, key: Tensor | None = None) -> SiteProgram:
        """What happens at a site, laid out for the sequence that the site sees now (streams, images, folded, or the
        part of its text that a decoder is at, which `query` and `key` `[n, H, length, D]` tell).
        """
        program = self.programs[site]
        if self.timeline is not None and query is not None and key is not None:
            return self.timeline.lay_out(site, program, query.shape[0], query.shape[2], key.shape[2])
        return program if self.sharing is None else self.sharing.lay_out(self, site, program)

    def keep(self, site: Site, program: SiteProgram, output: Tensor | None, attention: Tensor, value: Tensor) -> None:
        """Stores what the program wants read, per stream; `output` is only looked at if it `needs_outputs`.

        Raises:
            Enough: if the scope is to stop here.
        """
        self.fired.add(site)
        self._store(site, program, output, attention, value)
        if self.stop and self.fired >= set(self.programs) and self._is_through(site):
            raise Enough

    def begin(self) -> None:
        """Another forward in this scope begins: what sites did before does not count for it."""
        self.fired.clear()
        if isinstance(self.timeline, PackedPositions):
            self.timeline.restart()

    def maps(self) -> dict[Site, Tensor]:
        """What was read, site by site: `[n, H, K]`, or `[n, H, R, K]` of rows that are kept one by one."""
        return self.attention if not isinstance(self.timeline, PackedPositions) else self.timeline.maps()

    @property
    def calls(self) -> int:
        """In how many calls a site sees a batch, at least: one, or one for each image of a packed sequence."""
        return self.timeline.images if isinstance(self.timeline, PackedPositions) else 1

    def _is_through(self, site: Site) -> bool:
        """False as long as the site has images of a packed sequence before it."""
        return not isinstance(self.timeline, PackedPositions) or self.timeline.is_through(site)

    def _store(self, site: Site, program: SiteProgram, output: Tensor | None, attention: Tensor, value: Tensor) -> None:
        if not (program.read or program.decompose or program.capture_output):
            return
        if isinstance(self.timeline, PackedPositions):
            if program.read:
                self.timeline.read(site, program, attention)
            if program.capture_output and output is not None:
                streams = len(self.programs[site].edited)
                self.outputs[site] = self.timeline.gather(output, self.outputs.get(site), streams)
            return
        if program.columns is not None:
            if program.read_rows is not None and len(program.read_rows):
                rows = attention.index_select(2, program.read_rows)
                self.steps.setdefault(site, []).append(program.patches_of(rows))
            return
        if self.sharing is not None:
            output, attention, value = self.sharing.per_stream(self, site, output, attention, value)
        if program.read:
            kept = attention if program.read_rows is None else attention.index_select(2, program.read_rows)
            self.attention[site] = kept if program.per_row else kept.mean(dim=2)
        if program.capture_output and output is not None:
            self.outputs[site] = output
        if program.decompose:
            weight = getattr(site.projection, "weight", None)
            bias = getattr(site.projection, "bias", None)
            rows = attention if program.decompose_rows is None else attention.index_select(2, program.decompose_rows)
            self.decomposition[site] = contributions(rows.mean(dim=2), value, weight, bias)
