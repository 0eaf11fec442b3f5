//! JSON without the quotation marks that say nothing: `{name:S,subjects:[s.>]}`. Rows are full of it.

/// Adds the quotation marks. What already has them, numbers, `true`, `false` and `null` stay. Nothing
/// is checked: a row may want to send nonsense.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let (mut is_quoted, mut is_escaped) = (false, false);
    for c in text.chars() {
        if is_quoted {
            out.push(c);
            is_quoted = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
        } else if "{}[],:\"".contains(c) {
            end_word(&mut word, &mut out);
            out.push(c);
            is_quoted = c == '"';
        } else if c != ' ' || !word.is_empty() {
            word.push(c);
        }
    }
    end_word(&mut word, &mut out);
    out
}

fn end_word(word: &mut String, out: &mut String) {
    let trimmed = word.trim_end();
    let is_literal = matches!(trimmed, "true" | "false" | "null") || trimmed.parse::<f64>().is_ok();
    if is_literal || trimmed.is_empty() {
        out.push_str(trimmed);
    } else {
        out.push('"');
        out.push_str(trimmed);
        out.push('"');
    }
    word.clear();
}

#[test]
fn words_are_quoted_and_literals_are_not() {
    let quoted =
        quote(r#"{name:S, n:-1, on:true, at:"a:b\"", x:[s.>, *, 1e3, two words], no:null}"#);
    let expected = concat!(
        r#"{"name":"S","n":-1,"on":true,"at":"a:b\"","#,
        r#""x":["s.>","*",1e3,"two words"],"no":null}"#
    );
    assert_eq!(quoted, expected);
}
