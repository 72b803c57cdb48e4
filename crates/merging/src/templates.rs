//! Chat templates that recipes call by a name, as mergekit knows them.

use peft_core::files::nearest;
use peft_core::{Error, Result};

/// The templates by their names. They render what mergekit's of the same names do, in its quirks too: line ends behind the messages of
/// `llama3`, spaces before those of `exaone`, none between the last instruction of `alpaca` and the answer's heading.
const TEMPLATES: [(&str, &str); 5] = [
    (
        "alpaca",
        "{% set system = messages|selectattr('role', 'equalto', 'system')|list %}{{ (system|last).content|trim if system else '' }}\
         {{ '\\n\\n' }}{% for message in messages %}{% if message['role'] in ['user', 'assistant', 'user_context'] %}\
         {{ '### ' + {'user': 'Instruction', 'assistant': 'Response', 'user_context': 'Input'}[message['role']] + ':\\n' \
         + message['content']|trim + ('' if loop.last else '\\n\\n') }}{% endif %}{% endfor %}\
         {% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{ '### Response:\\n' }}{% endif %}",
    ),
    (
        "chatml",
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
         {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (
        "exaone",
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '        [|system|][|endofturn|]\\n\\n' }}\
         {% endif %}{{ '    [|' + message['role'] + '|]' + message['content'] + '\\n        ' \
         + ('' if message['role'] == 'user' else '[|endofturn|]') + '\\n\\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '    [|assistant|]\\n' }}{% endif %}",
    ),
    (
        "llama3",
        "{% for message in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + message['role'] \
         + '<|end_header_id|>\\n\\n' + message['content']|trim + '<|eot_id|>\\n' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    ),
    (
        "mistral",
        "{% set said = messages[1:] if messages[0]['role'] == 'system' else messages %}{{ bos_token }}{% for message in said %}\
         {% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}\
         {{ raise_exception('the roles after a system message must be user, assistant, user and so on') }}{% endif %}\
         {% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}\
         {{ ' [INST] ' + (messages[0]['content'] + '\\n\\n' if loop.first and messages[0]['role'] == 'system' else '') \
         + message['content'] + ' [/INST]' }}{% endif %}{% endfor %}",
    ),
];

/// The template of this name.
///
/// # Errors
/// [`Error::InvalidConfig`] naming the nearest.
pub fn named(name: &str) -> Result<&'static str> {
    let known = || TEMPLATES.iter().map(|(name, _)| *name);
    TEMPLATES.iter().find(|(known, _)| *known == name).map(|(_, template)| *template).ok_or_else(|| {
        let names: Vec<_> = known().collect();
        Error::InvalidConfig(format!(
            "chat_template: `{name}` is neither auto, nor one of {}, nor a template in Jinja; the nearest is `{}`",
            names.join(", "),
            nearest(name, known(), 1).join("")
        ))
    })
}

/// What a template writes in the form of special tokens, `<|…|>`, each once.
pub fn special_tokens(template: &str) -> impl Iterator<Item = &str> {
    let mut tokens: Vec<&str> = Vec::new();
    for (start, _) in template.match_indices("<|") {
        let token = template[start..].find("|>").map(|length| &template[start..start + length + 2]);
        if let Some(token) = token.filter(|token| !token[2..].contains(['<', '\'', '"', ' ']) && !tokens.contains(token)) {
            tokens.push(token);
        }
    }
    tokens.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_of_templates_are_found_once() {
        let of = |name: &str| special_tokens(named(name).unwrap()).collect::<Vec<_>>();
        assert_eq!(of("chatml"), ["<|im_start|>", "<|im_end|>"]);
        assert_eq!(of("llama3"), ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]);
        assert!(of("alpaca").is_empty() && special_tokens("{{ '<|' + role + '|>' }}").next().is_none());
        assert!(named("lama3").unwrap_err().to_string().contains("the nearest is `llama3`"));
    }
}
