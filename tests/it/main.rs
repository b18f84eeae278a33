mod harness;
mod story;
