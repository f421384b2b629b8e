//! The commands that are short enough for one file each.

pub mod admin;
pub mod check;
pub mod down;
pub mod fuzz;
pub mod issuer;
pub mod manual;
pub mod test;
pub mod token;
pub mod up;
