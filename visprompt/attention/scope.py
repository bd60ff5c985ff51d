"""The scope that owns every side effect on a model: its edits, its hooks and what it captures.

The scope is held in a `ContextVar`, so two threads with different prompts on one model do not mix: hooks that one
thread's scope puts on a module have no effect in another thread. Everything is undone on exit, also after an error.
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
    """Ends a forward early once everything wanted has been computed; the code that opened the scope with `stop` catches
    it.
    """


_training_scopes: list[Scope] = []
_lock = threading.RLock()


def current_scope(module: nn.Module) -> Scope | None:
    """The innermost open scope with a program for a module.

    Autograd may run a backward pass on a thread of its own, where the `ContextVar` is not set: recomputation under
    gradient checkpointing then finds its scope among those that were opened with gradients enabled.

    Args:
        module: an attention module.

    Returns:
        The scope, or None.

    Raises:
        UnsupportedError: if a backward pass finds several scopes open on this module.
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
    """Whether a scope on a tower is open in this context.

    Args:
        tower: the tower; its version with prompt tokens counts as the same.

    Returns:
        True if one is open.
    """
    scope = _current.get()
    while scope is not None and scope.tower.blocks is not tower.blocks:
        scope = scope.parent
    return scope is not None


class Scope:
    """Applies attention edits to one tower during a `with` block (forward, and backward if gradients are computed).

    Args:
        tower: the tower whose sites are edited or read.
        programs: per site, what is edited and read.
        install: installs the hooks that the sites need; `visprompt.attention.engine.open_scope` passes it.
        sharing: runs the blocks before the first edit once per image; None: every stream runs all blocks.
        device: device for the programs' tensors; None: they stay where they are.
        timeline: for decoders, and for towers that pack images into one sequence: the positions of rows and columns,
            call by call.
        tokens: prompt tokens in the sequence; `tower` and `programs` then belong to the tower `tokens.tower`.
        stop: raise `Enough` once every site has run, so that later blocks are not computed.

    Raises:
        SiteNotReachedError: on exit, if a site never ran or prompt tokens were not inserted.
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
        #: a decoder's maps, one `[n, H, R, P]` per call that read
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
                    "model was run in another "
                    "way than it was wrapped for (unfused attention, a compiled or replaced block)."
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
        """Runs a function before a module's forward, in this scope's context only.

        Args:
            module: the module.
            call: `call(module, args, kwargs)`, which returns new `(args, kwargs)` or None.
        """

        # A call in another thread may see the hook while it is being registered or removed; it then passes no kwargs.
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
        """Runs a function after a module's forward, in this scope's context only.

        Args:
            module: the module.
            call: `call(module, args, kwargs, output)`, which returns a new output or None.
            always: also run it when the module raises; `output` is None then.
            first: run it before all hooks that are already installed.
        """

        # rest is (kwargs, output); a call in another thread may leave out kwargs, as in `hook_before`
        def hook(owner: nn.Module, args: tuple[Any, ...], *rest: Any) -> Any:
            return call(owner, args, *rest) if self.is_active() else None

        handle = module.register_forward_hook(hook, with_kwargs=True, always_call=always, prepend=first)
        self._hooks.append(handle)

    def is_active(self) -> bool:
        """Whether this code runs in the thread and context that opened the scope, or in its backward pass.

        Returns:
            True if hooks of this scope are to act.
        """
        scope = innermost = _current.get()
        while scope is not None:
            if scope is self:
                return True
            scope = scope.parent
        # In a backward pass, a thread with open scopes uses those; autograd's own threads have none.
        return innermost is None and self in _training_scopes and torch._C._current_graph_task_id() != -1

    def program(self, site: Site, query: Tensor | None = None, key: Tensor | None = None) -> SiteProgram:
        """The program of a site, translated to the sequence that the site sees in the current call.

        Args:
            site: the site that is called.
            query: `[n, H, Q, D]` of the call; with `key`, needed for decoders and packed towers.
            key: `[n, H, K, D]` of the call.

        Returns:
            The program for this call.
        """
        program = self.programs[site]
        if self.timeline is not None and query is not None and key is not None:
            return self.timeline.lay_out(site, program, query.shape[0], query.shape[2], key.shape[2])
        return program if self.sharing is None else self.sharing.lay_out(self, site, program)

    def keep(self, site: Site, program: SiteProgram, output: Tensor | None, attention: Tensor, value: Tensor) -> None:
        """Stores what the program reads, per stream.

        Args:
            site: the site that was called.
            program: the program of this call.
            output: `[n, H, R, D]` outputs; used only if the program `needs_outputs`.
            attention: `[n, H, R, K]`.
            value: `[n, H, K, D]`.

        Raises:
            Enough: if the scope has `stop` and every site has run.
        """
        self.fired.add(site)
        self._store(site, program, output, attention, value)
        if self.stop and self.fired >= set(self.programs) and self._is_through(site):
            raise Enough

    def begin(self) -> None:
        """Starts another forward in this scope: forgets which sites ran in the forward before."""
        self.fired.clear()
        if isinstance(self.timeline, PackedPositions):
            self.timeline.restart()

    def maps(self) -> dict[Site, Tensor]:
        """The attention that was read.

        Returns:
            Per site `[n, H, K]`, or `[n, H, R, K]` where every row is kept; packed towers have P patches in place of K
            keys.
        """
        return self.attention if not isinstance(self.timeline, PackedPositions) else self.timeline.maps()

    @property
    def calls(self) -> int:
        """The least number of calls in which a site sees a batch: 1, or one per image of a packed sequence."""
        return self.timeline.images if isinstance(self.timeline, PackedPositions) else 1

    def _is_through(self, site: Site) -> bool:
        """False while a site still has images of a packed sequence to process."""
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
