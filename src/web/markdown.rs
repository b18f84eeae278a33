//! Text to HTML. Invariant: no byte of a message becomes markup that is not made here. Raw HTML and
//! images are shown as text, and a link goes to http, https or this server.

use pulldown_cmark::{Event, Parser, Tag, TagEnd, html};

/// The bot's Markdown (CommonMark) as HTML.
pub fn to_html(markdown: &str) -> String {
    let mut open_links = Vec::new();
    let events = Parser::new(markdown).filter_map(|event| match event {
        Event::Html(text) | Event::InlineHtml(text) => Some(Event::Text(text)),
        Event::Start(Tag::HtmlBlock) => Some(Event::Start(Tag::Paragraph)),
        Event::End(TagEnd::HtmlBlock) => Some(Event::End(TagEnd::Paragraph)),
        Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => None,
        Event::Start(Tag::Link { dest_url, .. }) => {
            let safe = is_safe(&dest_url);
            open_links.push(safe);
            safe.then(|| {
                let open = format!(r#"<a href="{}" rel="noopener noreferrer">"#, escape(&dest_url));
                Event::InlineHtml(open.into())
            })
        }
        Event::End(TagEnd::Link) => open_links.pop()?.then(|| Event::InlineHtml("</a>".into())),
        other => Some(other),
    });
    let mut out = String::with_capacity(markdown.len() * 2);
    html::push_html(&mut out, events);
    out
}

/// A person's text as HTML that shows exactly that text.
pub fn typed(text: &str, is_command: bool) -> String {
    if is_command {
        format!(r#"<code class="command">{}</code>"#, escape(text))
    } else {
        format!(r#"<p class="typed">{}</p>"#, escape(text))
    }
}

fn is_safe(url: &str) -> bool {
    let lower = url.to_ascii_lowercase();
    lower.starts_with("https://")
        || lower.starts_with("http://")
        // `//host` and `/\host` leave this server.
        || (url.starts_with('/') && !url[1..].starts_with(['/', '\\']))
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_bot_writes() {
        assert_eq!(
            to_html("**#1 reboot** · `web[01-12]`\n\n- one\n- [OPS-1](https://jira/OPS-1?a=1&b=2)"),
            "<p><strong>#1 reboot</strong> · <code>web[01-12]</code></p>\n<ul>\n<li>one</li>\n\
             <li><a href=\"https://jira/OPS-1?a=1&amp;b=2\" rel=\"noopener noreferrer\">OPS-1</a></li>\n</ul>\n"
        );
    }

    #[test]
    fn markup_stays_text() {
        for hostile in [
            "<script>alert(1)</script>",
            "a <img src=x onerror=alert(1)> b",
            "![x](javascript:alert(1))",
            "![x](https://evil/p.png)",
            "[x](javascript:alert(1))",
            "[x](JaVaScRiPt:alert(1))",
            "[x](data:text/html,1)",
            "[x](//evil.example)",
            "[x](/\\evil.example)",
            "<javascript:alert(1)>",
            "[a ![b](c)](javascript:d)",
            "[x](https://a/\"onmouseover=alert(1)) ",
            "```x\" onload=\"y\n<b>\n```",
        ] {
            let html = to_html(hostile);
            for tag in ["<script", "<img", "<b>", "href=\"j", "href=\"d", "href=\"//", "href=\"/\\"]
            {
                assert!(!html.contains(tag), "{hostile:?} became {html}");
            }
            assert!(!html.contains("\"onmouse") && !html.contains("\" onload"), "{html}");
        }
        assert_eq!(to_html("[**@bob**](mention:bob)"), "<p><strong>@bob</strong></p>\n");
        assert!(to_html("[x](/batches/1)").contains("href=\"/batches/1\""));
    }

    #[test]
    fn typed_text_is_shown_as_it_is() {
        assert_eq!(typed("<b>&'\"", false), "<p class=\"typed\">&lt;b&gt;&amp;&#39;&quot;</p>");
    }
}
