"""The fixed words of pages and terminal texts, in English and Chinese."""

# ruff: noqa: RUF001 - Chinese text uses full-width punctuation

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.views.style import Language

_WORDS = {
    "action": ("action", "操作"),
    "after": ("after", "变更后"),
    "all_clear": ("No problem found.", "未发现问题。"),
    "before": ("before", "变更前"),
    "card": ("card", "卡"),
    "cards": ("cards", "卡"),
    "chain_head": ("chain head", "记录链头"),
    "change": ("change", "变更"),
    "changes": ("changes", "变更"),
    "check": ("check", "检查项"),
    "cluster": ("cluster", "集群"),
    "commands": ("commands", "命令"),
    "commands_that_ran": ("commands that ran", "已执行的命令"),
    "content": ("content, lines", "内容，行数"),
    "destroys": ("cannot be undone", "不可撤销"),
    "digest": ("digest", "摘要"),
    "due_elsewhere": ("due in other stages", "属于其他步骤"),
    "empty_value": ("(nothing)", "（空）"),
    "ended": ("ended", "结束"),
    "expected": ("expected", "期望"),
    "host_checks": ("Hosts", "主机"),
    "mode": ("mode", "模式"),
    "next": ("next command", "下一条命令"),
    "no_findings": (
        "Nothing was checked, so nothing is known.",
        "没有进行任何检查，因此状态未知。",
    ),
    "no_next": ("none recorded; read the remedy", "未记录，请参阅处理方法"),
    "not_checked": ("not checked", "未检查"),
    "not_ended": ("not ended, or interrupted", "未结束或已中断"),
    "notebook": ("notebook", "笔记本"),
    "nothing_to_change": ("Nothing to change.", "无需变更。"),
    "ok_findings": ("checks without a problem", "没有问题的检查"),
    "params": ("parameters", "参数"),
    "phase": ("phase", "阶段"),
    "plan": ("plan", "计划"),
    "problems": ("problems", "问题"),
    "provisional": (
        "Provisional preview: waits for {stages}. It has no digest and cannot be approved.",
        "临时预览：等待 {stages}。没有摘要，不能批准。",
    ),
    "remedy": ("remedy", "处理方法"),
    "rehearsal": (
        "Rehearsal on the twin ({level}): an emulated cluster. Nothing here says anything about real hardware.",
        "在孪生集群上演练（{level}）：这是仿真集群，结果不代表真实硬件。",
    ),
    "run": ("run", "运行"),
    "seconds": ("time", "耗时"),
    "seen": ("seen", "实际"),
    "skipped_findings": ("checks skipped", "被跳过的检查"),
    "source": ("source", "来源"),
    "stage": ("stage", "步骤"),
    "stages": ("Stages", "步骤"),
    "started": ("started", "开始"),
    "state": ("state", "状态"),
    "still_changing": ("may still change: verify looks again for a while", "最后一次查看时仍在变化"),
    "subject": ("subject", "对象"),
    "undecided": ("not known whether: {title}", "无法判断：{title}"),
    "undo": ("undo", "撤销"),
    "verdict": ("verdict", "结论"),
    "why": ("why it matters", "影响"),
    "why_no_undo": ("no undo", "无法撤销"),
}
_HEADLINES = {
    "ok": ("Everything that was asked for is ok.", "所有检查项均正常。"),
    "warn": ("Usable, with warnings.", "可用，但有警告。"),
    "fail": ("Something is wrong.", "存在问题。"),
    "unknown": ("Not known to be good: something could not be seen.", "无法确认正常：有内容未能看到。"),
    "skipped": ("Nothing was run.", "没有运行任何内容。"),
}
_INDEX = {"en": 0, "zh": 1}


def _column(table: dict[str, tuple[str, str]], language: str) -> Mapping[str, str]:
    if language not in _INDEX:
        raise UsageError(f"language {language!r} is not known; expected one of {', '.join(_INDEX)}")
    return MappingProxyType({key: pair[_INDEX[language]] for key, pair in table.items()})


def words(language: Language | str) -> Mapping[str, str]:
    """Return the words of one language. Raises UsageError for a language that we do not speak."""
    return _column(_WORDS, language)


def headlines(language: Language | str) -> Mapping[str, str]:
    """Return one sentence per verdict."""
    return _column(_HEADLINES, language)
