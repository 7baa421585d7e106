/* The chat protocol's strings, byte for byte as the model was trained on them; tests/test_chat.c
 * compares them with the published list. A text with a placeholder stands as the pieces around it.
 */
#ifndef SLUICE_RUNTIME_CHAT_STRINGS_H
#define SLUICE_RUNTIME_CHAT_STRINGS_H

/* Markers: each is one special token. */
#define CHAT_BOS             "<｜begin▁of▁sentence｜>"
#define CHAT_EOS             "<｜end▁of▁sentence｜>"
#define CHAT_USER            "<｜User｜>"
#define CHAT_ASSISTANT       "<｜Assistant｜>"
#define CHAT_LATEST_REMINDER "<｜latest_reminder｜>"
#define CHAT_THINK_START     "<think>"
#define CHAT_THINK_END       "</think>"

/* Quick-instruction tasks: field value, token. */
#define CHAT_TASKS(X)                                                                              \
    X(action, "<｜action｜>")                                                                      \
    X(query, "<｜query｜>")                                                                        \
    X(authority, "<｜authority｜>")                                                                \
    X(domain, "<｜domain｜>")                                                                      \
    X(title, "<｜title｜>")                                                                        \
    X(read_url, "<｜read_url｜>")

/* Tools and the reply's format, after the text of a system or developer message. */
#define CHAT_BLOCK_SEPARATOR "\n\n"
#define CHAT_TOOLS_BEFORE_SCHEMAS                                                                  \
    "## Tools\n\n"                                                                                 \
    "You have access to a set of tools to help answer the user's question. You can invoke "        \
    "tools by writing a \"<｜DSML｜tool_calls>\" block like the following:\n\n"                  \
    "<｜DSML｜tool_calls>\n"                                                                     \
    "<｜DSML｜invoke name=\"$TOOL_NAME\">\n"                                                     \
    "<｜DSML｜parameter name=\"$PARAMETER_NAME\" "                                               \
    "string=\"true|false\">$PARAMETER_VALUE</｜DSML｜parameter>\n"                               \
    "...\n"                                                                                        \
    "</｜DSML｜invoke>\n"                                                                        \
    "<｜DSML｜invoke name=\"$TOOL_NAME2\">\n"                                                    \
    "...\n"                                                                                        \
    "</｜DSML｜invoke>\n"                                                                        \
    "</｜DSML｜tool_calls>\n\n"                                                                  \
    "String parameters should be specified as is and set `string=\"true\"`. For all other "        \
    "types (numbers, booleans, arrays, objects), pass the value in JSON format and set "           \
    "`string=\"false\"`.\n\n"                                                                      \
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete "           \
    "reasoning inside <think>...</think> BEFORE any tool calls or final response.\n\n"             \
    "Otherwise, output directly after </think> with tool calls or final response.\n\n"             \
    "### Available Tool Schemas\n\n"
#define CHAT_TOOLS_AFTER_SCHEMAS                                                                   \
    "\n\n"                                                                                         \
    "You MUST strictly follow the above defined tool name and parameter schemas to invoke "        \
    "tool calls.\n"
#define CHAT_FORMAT_BEFORE_SCHEMA                                                                  \
    "## Response Format:\n\n"                                                                      \
    "You MUST strictly adhere to the following schema to reply:\n"

/* Tool calls. The parser looks for the tags without what ends them. */
#define CHAT_DSML             "｜DSML｜"
#define CHAT_CALLS_TAG        "\n\n<" CHAT_DSML "tool_calls"
#define CHAT_CALLS_END_TAG    "</" CHAT_DSML "tool_calls>"
#define CHAT_CALL_TAG         "<" CHAT_DSML "invoke"
#define CHAT_CALL_END_TAG     "</" CHAT_DSML "invoke"
#define CHAT_PARAM_TAG        "<" CHAT_DSML "parameter"
#define CHAT_PARAM_END_TAG    "</" CHAT_DSML "parameter"
#define CHAT_TAG_END          ">\n"
#define CHAT_NAME             "name=\""
#define CHAT_CALL_AFTER_NAME  "\">\n"
#define CHAT_PARAM_AFTER_KEY  "\" string=\""
#define CHAT_PARAM_AFTER_FLAG "\">"

/* A tool's answer inside a user turn. */
#define CHAT_RESULT_BEFORE "<tool_result>"
#define CHAT_RESULT_AFTER  "</tool_result>"

/* In front of everything else, by effort; the preview's "max" is the 0731 checkpoint's "high". */
#define CHAT_EFFORT_THOROUGH                                                                       \
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"                            \
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to "     \
    "resolve the root cause, rigorously stress-testing your logic against all potential "          \
    "paths, edge cases, and adversarial scenarios.\n"                                              \
    "Explicitly write out your entire deliberation process, documenting every intermediate "       \
    "step, considered alternative, and rejected hypothesis to ensure absolutely no "               \
    "assumption is left unchecked.\n\n"
#define CHAT_EFFORT_BEYOND                                                                         \
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"           \
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: "      \
    "exhaustively decompose the problem into its most fundamental components, trace every "        \
    "causal chain to its root, and resolve the underlying cause rather than any surface "          \
    "symptom.\n"                                                                                   \
    "Do not stop reasoning until you have independently verified the solution from multiple "      \
    "angles and are certain that no assumption remains unchecked and no error remains "            \
    "undiscovered.\n\n"

#endif
