"""The chat format of the checkpoint, as far as the training conversations need it.

Byte for byte what `sluice debug render` writes; demo/train/check_text.py compares the two.
"""

import json

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK, THINK_END = "<think>", "</think>"
DSML = "｜DSML｜"
SPECIAL = [BOS, EOS, PAD]
MARKERS = [
    USER,
    ASSISTANT,
    THINK,
    THINK_END,
    DSML,
    "<｜latest_reminder｜>",
    "<｜action｜>",
    "<｜query｜>",
    "<｜authority｜>",
    "<｜domain｜>",
    "<｜title｜>",
    "<｜read_url｜>",
]

TOOLS_SECTION = (
    "## Tools\n\nYou have access to a set of tools to help answer the user's question. You can invoke "
    'tools by writing a "<｜DSML｜tool_calls>" block like the following:\n\n<｜DSML｜tool_calls>\n'
    '<｜DSML｜invoke name="$TOOL_NAME">\n<｜DSML｜parameter name="$PARAMETER_NAME" '
    'string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>\n...\n</｜DSML｜invoke>\n'
    '<｜DSML｜invoke name="$TOOL_NAME2">\n...\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>\n\nString '
    'parameters should be specified as is and set `string="true"`. For all other types (numbers, '
    'booleans, arrays, objects), pass the value in JSON format and set `string="false"`.\n\nIf '
    "thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside "
    "<think>...</think> BEFORE any tool calls or final response.\n\nOtherwise, output directly after "
    "</think> with tool calls or final response.\n\n### Available Tool Schemas\n\n{schemas}\n\nYou MUST "
    "strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n"
)


def _tool_block(calls):
    parts = []
    for call in calls:
        parameters = []
        for key, value in call["function"]["arguments"].items():
            flag = "true" if isinstance(value, str) else "false"
            text = value if flag == "true" else json.dumps(value, ensure_ascii=False)
            parameters.append(
                f'<{DSML}parameter name="{key}" string="{flag}">{text}</{DSML}parameter>'
            )
        joined = "\n".join(parameters)
        parts.append(f'<{DSML}invoke name="{call["function"]["name"]}">\n{joined}\n</{DSML}invoke>')
    joined = "\n".join(parts)
    return f"\n\n<{DSML}tool_calls>\n{joined}\n</{DSML}tool_calls>"


def render(messages, is_thinking=False):
    """[(text, is_answer), ...]: the conversation in pieces; is_answer marks what the model writes.

    messages: dictionaries with role system, user, assistant or tool; arguments of tool calls are
    dictionaries here. The opening of an answer is rendered too when the last message is the user's.
    """
    has_tools = any(message.get("tools") for message in messages)
    drops = is_thinking and not has_tools
    last = max((i for i, m in enumerate(messages) if m["role"] in ("user", "tool")), default=-1)
    pieces = [(BOS, False)]
    for i, message in enumerate(messages):
        role = message["role"]
        if role == "system":
            text = message.get("content", "")
            if message.get("tools"):
                schemas = "\n".join(
                    json.dumps(tool["function"], ensure_ascii=False) for tool in message["tools"]
                )
                text += "\n\n" + TOOLS_SECTION.replace("{schemas}", schemas)
            pieces.append((text, False))
        elif role in ("user", "tool"):
            text = message["content"]
            if role == "tool":
                text = f"<tool_result>{text}</tool_result>"
            joins = i > 0 and messages[i - 1]["role"] in ("user", "tool")
            pieces.append((("\n\n" if joins else USER) + text, False))
            if i + 1 == len(messages) or messages[i + 1]["role"] == "assistant":
                thinks = is_thinking and (not drops or i >= last)
                pieces.append((ASSISTANT + (THINK if thinks else THINK_END), False))
        else:
            text = ""
            if is_thinking and (not drops or i > last):
                text = message.get("reasoning_content", "") + THINK_END
            text += message.get("content", "")
            if message.get("tool_calls"):
                text += _tool_block(message["tool_calls"])
            pieces.append((text + EOS, True))
    return pieces
