//! Renders Slack's mrkdwn as its app does, in HTML.
//! <https://docs.slack.dev/messaging/formatting-message-text>

/// Emoji that messages use.
const EMOJI: [(&str, &str); 10] = [
    ("hourglass_flowing_sand", "⏳"),
    ("gear", "⚙️"),
    ("large_green_circle", "🟢"),
    ("large_yellow_circle", "🟡"),
    ("red_circle", "🔴"),
    ("white_circle", "⚪"),
    ("white_check_mark", "✅"),
    ("+1", "👍"),
    ("-1", "👎"),
    ("x", "❌"),
];
const MARKS: [(char, &str); 3] = [('*', "b"), ('_', "i"), ('~', "s")];
/// Character without width. Formatting characters before it are plain text.
const NOTHING: char = '\u{200b}';

/// Renders a text; `name` gives the name for an id.
pub fn html(text: &str, name: &dyn Fn(&str) -> String) -> String {
    let mut out = String::new();
    for (at, part) in text.split("```").enumerate() {
        if at % 2 == 1 {
            out += &format!("<pre>{}</pre>", part.trim_matches('\n'));
        } else {
            out += &inline(part, name).replace('\n', "<br>");
        }
    }
    for (name, shown) in EMOJI {
        out = out.replace(&format!(":{name}:"), shown);
    }
    out.replace(NOTHING, "")
}

/// Emoji of this name.
pub fn emoji(name: &str) -> String {
    let name = name.split("::").next().unwrap_or(name);
    let known = EMOJI.iter().find(|(known, _)| *known == name);
    known.map_or_else(|| format!(":{name}:"), |(_, shown)| (*shown).into())
}

fn inline(text: &str, name: &dyn Fn(&str) -> String) -> String {
    let (mut out, mut rest, mut before) = (String::new(), text, ' ');
    while let Some(next) = rest.chars().next() {
        let between = |open, close| rest.strip_prefix(open)?.split_once::<char>(close);
        if let Some((inside, after)) = between('<', '>') {
            out += &special(inside, name);
            (rest, before) = (after, '>');
        } else if let Some((inside, after)) = between('`', '`') {
            out += &format!("<code>{inside}</code>");
            (rest, before) = (after, '`');
        } else if let Some((tag, inside, after)) = styled(rest, before) {
            out += &format!("<{tag}>{}</{tag}>", inline(inside, name));
            (rest, before) = (after, '*');
        } else {
            out.push(next);
            (rest, before) = (&rest[next.len_utf8()..], next);
        }
    }
    out
}

/// Splits formatted text at the beginning: its tag, its content, and the rest.
fn styled(text: &str, before: char) -> Option<(&'static str, &str, &str)> {
    let (mark, tag) = MARKS.iter().find(|(mark, _)| text.starts_with(*mark))?;
    let touches = |c: Option<char>| c.is_some_and(|c| !c.is_whitespace() && c != NOTHING);
    let goes_on = |c: char| c.is_alphanumeric() || c == NOTHING;
    let text = &text[1..];
    let line = text.lines().next()?;
    if before.is_alphanumeric() || !touches(line.chars().next()) {
        return None;
    }
    let ends = |at: &usize| {
        touches(line[..*at].chars().next_back()) && !line[at + 1..].starts_with(goes_on)
    };
    let end = line.match_indices(*mark).map(|(at, _)| at).find(ends)?;
    Some((tag, &text[..end], &text[end + 1..]))
}

/// Renders the content of angle brackets: people, groups, dates, links.
fn special(inside: &str, name: &dyn Fn(&str) -> String) -> String {
    let (target, label) = inside.split_once('|').map_or((inside, None), |(t, l)| (t, Some(l)));
    let who = |name: &str| format!("<span class=\"who\">@{name}</span>");
    if let Some(id) = target.strip_prefix('@') {
        who(&name(id))
    } else if let Some(command) = target.strip_prefix('!') {
        match (command.split_once('^'), label) {
            (Some(("date", _)), Some(label)) => label.into(),
            (_, Some(label)) => who(label),
            (Some((_, id)), None) => who(id),
            (None, None) => who(command),
        }
    } else {
        let address = target.replace('"', "&quot;");
        format!("<a href=\"{address}\">{}</a>", label.unwrap_or(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_looks_as_in_slack() {
        let name = |id: &str| id.trim_start_matches("U0").to_lowercase();
        for (mrkdwn, expected) in [
            (":gear: *#1 reboot* · `web[01-12]`", "⚙️ <b>#1 reboot</b> · <code>web[01-12]</code>"),
            ("*@alice*, _a b_ and ~c~.", "<b>@alice</b>, <i>a b</i> and <s>c</s>."),
            (
                "<@U0BOB>: <!subteam^S1> <!date^7^{time}|7 Nov>",
                "<span class=\"who\">@bob</span>: <span class=\"who\">@S1</span> 7 Nov",
            ),
            (
                "<http://j/OPS-1?a=1&amp;b=2|OPS-1>",
                "<a href=\"http://j/OPS-1?a=1&amp;b=2\">OPS-1</a>",
            ),
            ("alone:\n```\na  *b*\n```", "alone:<br><pre>a  *b*</pre>"),
            ("2*3*4, max_fail_ed, * a *", "2*3*4, max_fail_ed, * a *"),
            ("*\u{200b}b*\u{200b} &lt;!channel&gt;", "*b* &lt;!channel&gt;"),
        ] {
            assert_eq!(html(mrkdwn, &name), expected, "{mrkdwn}");
        }
        assert_eq!(emoji("+1::skin-tone-3"), "👍");
        assert_eq!(emoji("eyes"), ":eyes:");
    }
}
