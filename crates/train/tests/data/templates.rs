//! Chat templates of every structure that public ones have, in few words.

pub const TEMPLATES: &[(&str, &str)] = &[
    (
        "chatml",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.content %}{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}\
         {{ '<tool_call>\n{\"name\": \"' + c.function.name + '\", \"arguments\": ' }}{{ c.function.arguments | tojson }}{{ '}\n</tool_call>' }}\
         {% endfor %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    (
        "chatml without a generation prompt",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') + '<|im_end|>\n' }}{% endfor %}",
    ),
    (
        "headers, trimmed contents, one call in JSON (Llama 3)",
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + (m.role if m.role != 'tool' else 'ipython') + '<|end_header_id|>\n\n' }}\
         {% if m.tool_calls %}{{ '{\"name\": \"' + m.tool_calls[0].function.name + '\", \"parameters\": ' }}\
         {{ m.tool_calls[0].function.arguments | tojson }}{{ '}' }}{% else %}{{ m.content | trim }}{% endif %}{{ '<|eot_id|>' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ),
    (
        "brackets, the system prompt in the first question (Llama 2)",
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages if m.role != 'system' %}\
         {% if m.role == 'user' %}{{ bos_token + '[INST] ' }}{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}\
         {{ m.content.strip() + ' [/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + (m.content or '').strip() + ' ' + eos_token }}\
         {% else %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}",
    ),
    (
        "brackets, the system prompt in the last question (Mistral Nemo)",
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}\
         {% set last = (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}{{ bos_token }}{% for m in messages if m.role != 'system' %}\
         {% if m.role == 'user' %}[INST]{% if m == last and system %}{{ system + '\n\n' }}{% endif %}{{ m.content + '[/INST]' }}\
         {% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}{% elif m.tool_calls %}\
         {{ '[TOOL_CALLS][' }}{% for c in m.tool_calls %}{{ c.function | tojson }}{{ ', ' if not loop.last }}{% endfor %}{{ ']' + eos_token }}\
         {% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
    ),
    (
        "turns of a model (Gemma)",
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}\
         {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
         {{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ),
    (
        "an end of text behind the last message (Phi)",
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + (m.content or '') + '<|end|>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    ),
    (
        "thoughts before the last answer are left out (Qwen 3)",
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\
         {% for m in messages %}{% set content = m.content or '' %}{% set thought = m.reasoning_content or '' %}{% if '</think>' in content %}\
         {% set thought = content.split('</think>')[0].split('<think>')[-1].strip() %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}\
         {{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or thought) %}\
         {{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{% endif %}{{ content }}{% for c in m.tool_calls or [] %}\
         {{ '\n<tool_call>\n{\"name\": \"' + c.function.name + '\", \"arguments\": ' }}{{ c.function.arguments | tojson }}{{ '}\n</tool_call>' }}\
         {% endfor %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    (
        "the generation prompt opens a thought (DeepSeek R1)",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<Assistant>{% for c in m.tool_calls or [] %}\
         {{ '<call>' + c.function.name }}{{ c.function.arguments | tojson }}{{ '</call>' }}{% endfor %}{{ (m.content or '').split('</think>')[-1] + eos_token }}\
         {% elif m.role == 'tool' %}{{ '<result>' + m.content + '</result>' }}{% elif m.role == 'system' %}{{ m.content }}\
         {% else %}{{ '<User>' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<Assistant><think>\n' }}{% endif %}",
    ),
    (
        "the generation prompt opens and closes a thought (Nemotron 3)",
        "{% for m in messages %}{{ '<' + m.role + '>\n' }}{% if m.role == 'assistant' %}{{ '<think>' + (m.reasoning_content or '') + '</think>' }}{% endif %}\
         {{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ '<function=' + c.function.name + '>' }}{% for k, v in c.function.arguments.items() %}\
         {{ '<parameter=' + k + '>' + v | string + '</parameter>' }}{% endfor %}{{ '</function>' }}{% endfor %}{{ '<end>\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<assistant>\n<think>\n\n</think>\n' }}{% endif %}",
    ),
    (
        "results of tools in the assistant's turn (Gemma 4)",
        "{{ bos_token }}{% for m in messages if m.role != 'tool' %}{% if m.role == 'assistant' %}{{ '<|turn>model\n' }}{% for c in m.tool_calls or [] %}\
         {{ '<|tool_call>call:' + c.function.name }}{{ c.function.arguments | tojson }}<tool_call|>{% endfor %}\
         {% for t in messages if t.role == 'tool' and t.tool_call_id in (m.tool_calls or []) | map(attribute='id') | list %}\
         {{ '<|tool_response>' + t.content + '<tool_response|>' }}{% endfor %}{{ m.content or '' }}{{ '<turn|>\n' }}\
         {% else %}{{ '<|turn>' + m.role + '\n' + m.content + '<turn|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}",
    ),
    (
        "channels (gpt-oss)",
        "{% for m in messages %}{% if m.role == 'assistant' %}{% set last = loop.last %}{% if m.reasoning_content and (m.tool_calls or last) %}\
         {{ '<|start|>assistant<|channel|>analysis<|message|>' + m.reasoning_content + '<|end|>' }}{% endif %}{% if m.tool_calls %}\
         {{ '<|start|>assistant to=functions.' + m.tool_calls[0].function.name + '<|channel|>commentary json<|message|>' }}\
         {{ m.tool_calls[0].function.arguments | tojson }}{{ '<|call|>' }}{% else %}\
         {{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if last else '<|end|>') }}{% endif %}\
         {% elif m.role == 'tool' %}{{ '<|start|>functions to=assistant<|channel|>commentary<|message|>' + m.content + '<|end|>' }}\
         {% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}<|start|>assistant{% endif %}",
    ),
    (
        "the next turn is opened whether asked for or not (Command A)",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|CHATBOT|><|START|>' + (m.content or '') + '<|END|>' }}\
         {% else %}{{ '<|' + m.role + '|>' + m.content + '<|END|>' }}{% endif %}{% endfor %}{{ '<|CHATBOT|><|START|>' }}",
    ),
    (
        "an end of text behind everything",
        "{% for m in messages %}{{ m.role + ': ' + (m.content or '') + '\n' }}{% endfor %}{{ eos_token }}",
    ),
    (
        "lists of parts alone (Idefics 3)",
        "{% for m in messages %}{{ m.role | capitalize + ':' }}{% for p in m.content %}{% if p.type == 'text' %}{{ ' ' + p.text }}{% endif %}{% endfor %}\
         {{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}",
    ),
    (
        "strings or parts, never null",
        "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}\
         {% endif %}{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{{ '<end>' }}{% endfor %}\
         {% if add_generation_prompt %}<assistant>{% endif %}",
    ),
    (
        "null asks for calls, arguments are text (DeepSeek V3)",
        "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}{{ '<Assistant>' }}{% for c in m.tool_calls %}\
         {{ '<call>' + c.function.name + '\n```json\n' + c.function.arguments + '\n```</call>' }}{% endfor %}{{ eos_token }}\
         {% elif m.role == 'assistant' %}{{ '<Assistant>' + m.content + eos_token }}{% else %}{{ '<' + m.role + '>' + m.content }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}<Assistant>{% endif %}",
    ),
    (
        "marks of what is generated",
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<assistant>' }}{% generation %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}\
         {{ '<call>' + c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{{ '<end>' if loop.last or true }}{% endgeneration %}\
         {% else %}{{ '<' + m.role + '>' + m.content + '<end>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    ),
    (
        "only the last question matters",
        "{{ bos_token }}{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[{% if loop.last or loop.revindex == 2 %}\
         {{ messages[0].content }} {% endif %}{{ m.content }}]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    ),
];
