//! What templates make of messages, in this process; `tests/src/templates.rs` has those that
//! need one of their own.

use super::*;
use crate::generation::Role;

const AROUND: Around<'_> = Around {
    begin: "<s>",
    end: "</s>",
};

fn message(role: Role, content: &str) -> Message {
    Message {
        role,
        content: content.to_owned(),
    }
}

fn say(template: &str) -> Answer {
    let messages = [
        message(Role::System, "Be <brief>."),
        message(Role::User, " Hi \n"),
    ];
    Templates::InProcess.prompt(template, &messages, AROUND)
}

#[test]
fn templates_are_jinja_as_python_has_it() {
    let template = "{{ bos_token }}{% for message in messages %}\n    {%- if message['role'] == \
                    'system' %}\n[{{ message.content }}]\n    {%- else %}\n{{ \
                    message['content'].strip() + eos_token }}\n    {%- endif %}\n{% endfor %}\n{% \
                    if add_generation_prompt %}{{ '>' }}{% endif %}";
    assert_eq!(say(template).unwrap(), "<s>[Be <brief>.]Hi</s>>");
    let methods = "{{ messages[0].content.split('<')[1].upper() }}{{ \
                   messages[1].role.startswith('us') }}{{ messages | length }}{% set ns = \
                   namespace(n=0) %}{% for m in messages[1:] %}{% set ns.n = ns.n + 1 %}{% endfor \
                   %}{{ ns.n }}{{ messages[1].role | tojson }}{{ tools is defined }}";
    let found = say(methods).unwrap().to_lowercase();
    assert_eq!(found, "brief>.true21\"user\"false");
}

/// In the style of each family's own, with what it uses of the language.
#[test]
fn templates_of_every_family_make_prompts() {
    let turns = [
        message(Role::System, "Be brief."),
        message(Role::User, " One? "),
        message(Role::Assistant, "1"),
        message(Role::User, "Two?"),
    ];
    // Llama 3: a header for each turn, the first message apart, a macro, no tools.
    let llama = "{{- bos_token }}\n{%- if custom_tools is defined %}\n    {%- set tools = custom_tools \
                 %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- \
                 endif %}\n{%- macro header(role) %}{{ '<|start_header_id|>' ~ role ~ \
                 '<|end_header_id|>\\n\\n' }}{% endmacro %}\n{%- if messages[0]['role'] == 'system' \
                 %}\n    {%- set system = messages[0]['content'] | trim %}\n    {%- set messages = \
                 messages[1:] %}\n{%- else %}\n    {%- set system = '' %}\n{%- endif %}\n{{- \
                 header('system') + system + '<|eot_id|>' }}\n{%- for message in messages %}\n    \
                 {%- if tools is not none and 'tool_calls' in message %}\n        {{- \
                 raise_exception('no tools') }}\n    {%- elif message.role in ['tool', 'ipython'] \
                 %}\n        {{- message.content | tojson }}\n    {%- else %}\n        {{- \
                 header(message['role']) + message['content'] | trim + '<|eot_id|>' }}\n    {%- endif \
                 %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- header('assistant') \
                 }}\n{%- endif %}\n";
    // Mistral: turns that alternate, and the system's words within the last one.
    let mistral = "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = \
                   messages[0]['content'] %}\n    {%- set loop_messages = messages[1:] %}\n{%- else \
                   %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n{%- set ns = \
                   namespace(index=0) %}\n{%- for message in loop_messages %}\n    {%- if \
                   (message['role'] == 'user') != (ns.index % 2 == 0) %}\n        {{- \
                   raise_exception('roles must alternate') }}\n    {%- endif %}\n    {%- set \
                   ns.index = ns.index + 1 %}\n{%- endfor %}\n{{- bos_token }}\n{%- for message in \
                   loop_messages %}\n    {%- if message['role'] == 'user' %}\n        {%- if \
                   loop.last and system_message is defined %}\n            {{- '[INST] ' + \
                   system_message + '\\n\\n' + message['content'] + '[/INST]' }}\n        {%- else \
                   %}\n            {{- '[INST] ' + message['content'] + '[/INST]' }}\n        {%- \
                   endif %}\n    {%- else %}\n        {{- ' ' + message['content'] | trim + eos_token \
                   }}\n    {%- endif %}\n{%- endfor %}\n";
    // Qwen2, and SmolLM with another default: ChatML that adds the system's words itself.
    let chatml = |default: &str| {
        format!(
            "{{% for message in messages %}}{{% if loop.first and messages[0]['role'] != 'system' \
             %}}{{{{ '<|im_start|>system\\n{default}<|im_end|>\\n' }}}}{{% endif \
             %}}{{{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + \
             '\\n'}}}}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' \
             }}}}{{% endif %}}"
        )
    };
    let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let made = [
        turn("system", "Be brief."),
        turn("user", " One? "),
        turn("assistant", "1"),
        turn("user", "Two?"),
        "<|im_start|>assistant\n".to_owned(),
    ];
    for (template, messages, expected) in [
        (
            llama.to_owned(),
            &turns[..],
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n1<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nTwo?<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
                .to_owned(),
        ),
        (
            mistral.to_owned(),
            &turns[..],
            "<s>[INST]  One? [/INST] 1</s>[INST] Be brief.\n\nTwo?[/INST]".to_owned(),
        ),
        (chatml("You help."), &turns[..], made.concat()),
        (
            chatml("I am small."),
            &turns[3..],
            turn("system", "I am small.") + &turn("user", "Two?") + &made[4],
        ),
    ] {
        let found = Templates::InProcess.prompt(&template, messages, AROUND);
        assert_eq!(found, Ok(expected), "{template}");
    }
}

#[test]
fn a_template_refuses_in_its_own_words() {
    let template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompt') \
                    }}{% endif %}";
    let error = say(template).expect_err("refused");
    assert_eq!(error, ChatError::Refused("no system prompt".to_owned()));
    for template in [
        "{{ messages.x.y }}",
        "{{ messages | nothing }}",
        "{{ f() }}",
    ] {
        let error = say(template).expect_err("fails");
        assert!(matches!(error, ChatError::Failed(_)), "{error:?}");
    }
}

/// What minijinja's own budget ends, without the help of a process.
#[test]
fn a_template_has_a_budget() {
    for template in [
        // Time.
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor \
         %}{% endfor %}{% endfor %}",
        // Memory.
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for a in range(60) %}{% set ns.x = ns.x \
         ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'aaaaaaaaaa' * 1000000000 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ range(1000000000) | list | length }}",
        // Stack.
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(x) %}{{ f(x) ~ f(x) }}{% endmacro %}{{ f(1) }}",
        // Files.
        "{% include '/etc/passwd' %}",
    ] {
        say(template).expect_err(template);
    }
    let check = |template: &str| Templates::InProcess.check(template);
    check("{{ messages.x.y }}").expect("it is only read");
    let nested = "{% if 1 %}".repeat(3_000) + &"{% endif %}".repeat(3_000);
    check(&nested).expect_err("too deep");
    check("{% for %}").expect_err("no Jinja");
    let large = check(&"x".repeat(TEMPLATE_BYTES + 1));
    assert_eq!(large, Err(ChatError::TooLarge(TEMPLATE_BYTES + 1)));
}

#[test]
fn a_program_that_is_none_is_no_fault_of_the_template() {
    for program in ["/nowhere/heyday", "/bin/false", "/bin/cat"] {
        let error = Templates::Child(PathBuf::from(program)).check("x");
        let error = error.expect_err(program);
        assert!(matches!(error, ChatError::Unavailable(_)), "{error:?}");
    }
}

#[test]
fn only_what_its_own_limits_end_did_too_much() {
    use std::os::unix::process::ExitStatusExt as _;
    for signal in [libc::SIGXCPU, libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS] {
        let found = interpret(ExitStatus::from_raw(signal));
        assert_eq!(found.expect("told"), Err(ChatError::TooMuch), "{signal}");
    }
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        interpret(ExitStatus::from_raw(signal)).expect_err("it may be run again");
    }
}
