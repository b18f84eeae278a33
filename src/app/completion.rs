//! Completion of a message that is being typed in a chat: from the slash on, and behind `/metal`.

use super::App;
use metalbot_core::command::{self, Completion};

/// First word of a message to Metalbot.
const PREFIX: &str = "/metal ";

/// Completions at the cursor of a message. The cursor, and `from` of each answer, count UTF-16
/// units from 0, as browsers do.
pub fn complete(app: &App, message: &str, cursor: usize) -> Vec<Completion> {
    let cursor = byte_offset(message, cursor);
    let before = &message[..cursor];
    if before.starts_with(PREFIX) {
        let inventory = app.inventory.current();
        let characters = before.chars().count();
        let found = command::complete(message, characters, &app.catalog, inventory.as_ref());
        let counted = |one: Completion| Completion { from: units(message, one.from), ..one };
        return found.into_iter().map(counted).collect();
    }
    match !before.is_empty() && PREFIX.starts_with(before) {
        true => vec![Completion {
            from: 0,
            insert: PREFIX.into(),
            label: PREFIX.trim_end().into(),
            help: "a command to Metalbot".into(),
        }],
        false => Vec::new(),
    }
}

/// The byte offset of a UTF-16 offset; inside a character it is the character's start.
fn byte_offset(text: &str, units: usize) -> usize {
    let mut seen = 0;
    for (at, char) in text.char_indices() {
        seen += char.len_utf16();
        if seen > units {
            return at;
        }
    }
    text.len()
}

/// UTF-16 units of the first so many characters.
fn units(text: &str, characters: usize) -> usize {
    text.chars().take(characters).map(char::len_utf16).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_survive_characters_outside_the_basic_plane() {
        let text = "a😀é";
        for (units, bytes) in [(0, 0), (1, 1), (2, 1), (3, 5), (4, 7), (99, 7)] {
            assert_eq!(byte_offset(text, units), bytes, "{units}");
        }
        for (characters, counted) in [(0, 0), (1, 1), (2, 3), (3, 4), (99, 4)] {
            assert_eq!(units(text, characters), counted, "{characters}");
        }
    }
}
