//! Notices and cards for people: [`render`] renders a notice, [`card`] builds a batch's message,
//! [`relay`] sends both.

pub mod card;
pub mod relay;
pub mod render;
