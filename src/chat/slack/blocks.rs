//! Our messages as Block Kit, within Slack's limits.
//!
//! Limits: 50 blocks a message, 3,000 characters a section, 75 a button, 2,000 a button's value
//! (<https://docs.slack.dev/reference/block-kit/blocks>), and about 13,200 characters in all, which
//! was measured and is documented nowhere. Text that does not fit is returned, to be sent as a
//! file.

use slack_morphism::prelude::*;

use super::forms::ASKS;
use super::mrkdwn::{self, Unit, escape};
use crate::chat::{Button, ButtonStyle, Card, Message, Progress, Tone};

pub(super) const MOST_IN_SECTION: usize = 2_900;
const MOST_SECTIONS: usize = 40;
/// Characters for the text of a message; the rest of its limit is for buttons and progress.
const MOST_IN_ALL: usize = 10_500;
const MOST_BUTTONS: usize = 25;
pub(super) const MOST_LABEL: usize = 75;
pub(super) const MOST_QUESTION: usize = 200;
const MOST_VALUE: usize = 2_000;
const MOST_FALLBACK: usize = 300;
const BAR: u32 = 20;

/// A message in Slack's form.
#[derive(Clone, PartialEq, Debug)]
pub struct RenderedBlocks {
    /// Plain text for notifications and screen readers.
    pub text: String,
    pub blocks: Vec<SlackBlock>,
    /// The whole text, if the blocks do not hold all of it.
    pub whole: Option<String>,
}

/// Renders a message. `file` is true if the whole text of a message that is cut will follow as a
/// file.
pub fn render(message: &Message, file: bool) -> RenderedBlocks {
    let mut units = mrkdwn::units(&message.markdown);
    if let (Some(card), Some(first)) = (&message.card, units.first_mut()) {
        first.runs.insert(0, format!("{} ", tone(card.tone)));
    }
    let (sections, cut) = sections(units);
    let mut blocks: Vec<SlackBlock> = sections.into_iter().map(section).collect();
    if cut {
        let note = match file {
            true => "This is only the beginning; the whole text is in the file.",
            false => "This is only the beginning; ask for less to see it whole.",
        };
        blocks.push(context(note.into()));
    }
    if let Some(card) = &message.card {
        blocks.extend(card.progress.map(|progress| context(bar(progress))));
        blocks.extend(buttons(card));
    }
    let plain = mrkdwn::plain(&message.markdown);
    RenderedBlocks {
        text: escape(&beginning(&plain, MOST_FALLBACK)),
        blocks,
        whole: cut.then_some(plain),
    }
}

/// Puts units together to sections, as many as fit; `true` when something is left out.
fn sections(units: Vec<Unit>) -> (Vec<String>, bool) {
    let (mut sections, mut all, mut cut) = (vec![String::new()], 0, false);
    for unit in units {
        cut |= unit.cut;
        let length = unit.len() + 1;
        if all + length.min(MOST_IN_SECTION) > MOST_IN_ALL {
            cut = true;
            break;
        }
        let open = sections.last().map_or(0, |section| section.chars().count());
        if open > 0 && open + length > MOST_IN_SECTION {
            if sections.len() == MOST_SECTIONS {
                cut = true;
                break;
            }
            sections.push(String::new());
        }
        let Some(section) = sections.last_mut() else { break };
        if !section.is_empty() {
            section.push('\n');
        }
        let mut room = MOST_IN_SECTION;
        for run in &unit.runs {
            let length = run.chars().count();
            if length > room {
                section.push('…');
                cut = true;
                break;
            }
            room -= length;
            *section += run;
        }
        all += length.min(MOST_IN_SECTION);
    }
    sections.retain(|section| !section.trim().is_empty());
    (sections, cut)
}

fn section(text: String) -> SlackBlock {
    SlackSectionBlock::new().with_text(verbatim(text).into()).into()
}

fn context(text: String) -> SlackBlock {
    SlackContextBlock::new(vec![SlackContextBlockElement::MarkDown(verbatim(text))]).into()
}

/// Text in which Slack makes no links or mentions by itself.
fn verbatim(text: String) -> SlackBlockMarkDownText {
    SlackBlockMarkDownText::new(text).with_verbatim(true)
}

fn tone(tone: Tone) -> &'static str {
    match tone {
        Tone::Waiting => ":hourglass_flowing_sand:",
        Tone::Working => ":gear:",
        Tone::Good => ":large_green_circle:",
        Tone::Warning => ":large_yellow_circle:",
        Tone::Bad => ":red_circle:",
        Tone::Neutral => ":white_circle:",
    }
}

/// `██████▓▓░░░░░░░░░░░░ 6 of 20 done · 2 failed`
fn bar(progress: Progress) -> String {
    let Progress { total, succeeded, failed, running, cancelled } = progress;
    let part = |count: u32| count * BAR / total.max(1);
    let (done, bad, busy) = (part(succeeded), part(failed), part(running));
    let open = BAR.saturating_sub(done + bad + busy);
    let run = |c: &str, n: u32| c.repeat(n as usize);
    let mut text =
        format!("{}{}{}{}", run("█", done), run("▒", bad), run("▓", busy), run("░", open));
    text += &format!(" {succeeded} of {total} done");
    for (count, word) in [(running, "running"), (failed, "failed"), (cancelled, "not started")] {
        if count > 0 {
            text += &format!(" · {count} {word}");
        }
    }
    text
}

fn buttons(card: &Card) -> Option<SlackBlock> {
    let fits = |button: &&Button| button.value.chars().count() <= MOST_VALUE;
    let shown = card.buttons.iter().filter(fits).take(MOST_BUTTONS);
    let elements: Vec<SlackActionBlockElement> =
        shown.enumerate().map(|(index, one)| button(index, one).into()).collect();
    (!elements.is_empty()).then(|| SlackActionsBlock::new(elements).into())
}

fn button(index: usize, button: &Button) -> SlackBlockButtonElement {
    let label = beginning(&button.label, MOST_LABEL);
    let id = match &button.ask {
        Some(question) => format!("{ASKS}{}", beginning(question, MOST_QUESTION)),
        None => format!("card:{index}"),
    };
    let element = SlackBlockButtonElement::new(label.as_str().into())
        .with_action_id(SlackActionId(id))
        .with_value(button.value.clone());
    match button.style {
        ButtonStyle::Plain => element,
        ButtonStyle::Primary => element.with_style(SlackBlockButtonStyle::Primary),
        // A button that asks a question needs no confirmation: the person can still go back.
        ButtonStyle::Danger if button.ask.is_some() => {
            element.with_style(SlackBlockButtonStyle::Danger)
        }
        ButtonStyle::Danger => element.with_style(SlackBlockButtonStyle::Danger).with_confirm(
            SlackBlockConfirmItem::new(
                "Are you sure?".into(),
                SlackBlockPlainText::from(format!("{label}: this cannot be taken back."))
                    .as_block_text(),
                beginning(&label, 30).as_str().into(),
                "Go back".into(),
            )
            .with_style("danger".into()),
        ),
    }
}

pub(super) fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn json(message: &Message) -> (Value, RenderedBlocks) {
        let rendered = render(message, true);
        (serde_json::to_value(&rendered.blocks).unwrap(), rendered)
    }

    fn text(markdown: &str) -> Message {
        Message { markdown: markdown.into(), card: None }
    }

    #[test]
    fn a_card_has_text_progress_and_buttons() {
        let button = |label: &str, style| Button {
            label: label.into(),
            value: format!("{label} 1"),
            style,
            ask: None,
        };
        let progress = Progress { total: 12, succeeded: 6, failed: 2, running: 1, cancelled: 0 };
        let card = Card {
            tone: Tone::Working,
            progress: Some(progress),
            buttons: vec![
                button("Pause", ButtonStyle::Plain),
                button("Approve", ButtonStyle::Primary),
                button("Reject", ButtonStyle::Danger),
            ],
        };
        let (blocks, rendered) =
            json(&Message { markdown: "**#1 reboot**\n\n`web[01-12]`".into(), card: Some(card) });
        assert_eq!(blocks[0]["text"]["text"], ":gear: *#1 reboot*\n`web[01-12]`");
        assert_eq!(blocks[0]["text"]["verbatim"], true);
        assert_eq!(
            blocks[1]["elements"][0]["text"],
            "██████████▒▒▒▓░░░░░░ 6 of 12 done · 1 running · 2 failed"
        );
        let buttons = &blocks[2]["elements"];
        assert_eq!(buttons[0]["value"], "Pause 1");
        assert!(buttons[0].get("style").is_none() && buttons[0].get("confirm").is_none());
        assert_eq!(buttons[1]["style"], "primary");
        assert_eq!(buttons[2]["style"], "danger");
        assert_eq!(buttons[2]["confirm"]["title"]["text"], "Are you sure?");
        assert_eq!(rendered.text, "#1 reboot\nweb[01-12]");
        assert_eq!(rendered.whole, None);
    }

    #[test]
    fn long_messages_are_cut_within_the_limits_and_kept_whole() {
        let lines: Vec<String> = (0..2000).map(|n| format!("- host{n} does not answer")).collect();
        let hosts: Vec<String> = (0..900).map(|n| format!("h{n}x")).collect();
        let one = format!("a `{}` b", hosts.join(","));
        let many = vec![one.clone(); 8].join("\n\n");
        for markdown in [lines.join("\n"), one, many, "x".repeat(50_000), "a b ".repeat(9_000)] {
            let (blocks, rendered) = json(&text(&markdown));
            let blocks = blocks.as_array().unwrap();
            assert!(blocks.len() <= 50);
            let lengths = blocks.iter().filter_map(|block| block["text"]["text"].as_str());
            let lengths: Vec<usize> = lengths.map(|text| text.chars().count()).collect();
            assert!(lengths.iter().all(|length| *length <= 3_000), "{lengths:?}");
            assert!(lengths.iter().sum::<usize>() <= 12_000, "{lengths:?}");
            assert!(!lengths.is_empty());
            assert_eq!(rendered.whole, Some(mrkdwn::plain(&markdown)));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_fits(markdown in "(\\PC|[*_`\\n\\-#<>&]){0,400}", times in 1usize..60) {
            let (blocks, rendered) = json(&text(&markdown.repeat(times)));
            let blocks = blocks.as_array().unwrap();
            proptest::prop_assert!(blocks.len() <= 50);
            for block in blocks {
                let length = block["text"]["text"].as_str().unwrap_or_default().chars().count();
                proptest::prop_assert!(length <= 3_000);
            }
            proptest::prop_assert!(rendered.text.chars().count() <= 5 * 300);
        }
    }
}
