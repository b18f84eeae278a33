//! From what happened to what people read: [`render`] words a notice, [`card`] draws a batch's
//! message, [`relay`] sends both.

pub mod card;
pub mod relay;
pub mod render;
