#![no_std]
//! Types.
