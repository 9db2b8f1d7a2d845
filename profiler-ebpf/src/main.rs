//! The BPF programs, one module per program.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(unsafe_code, reason = "BPF helpers and map values are raw pointers")]

mod cpu;
mod end;
mod exec;
mod fork;
mod labels;
mod maps;
mod parking;
mod registers;
mod snapshot;
mod spawn;
mod stack_copy;
mod stacks;
mod switch;
mod task;
mod timing;
mod user_memory;
mod user_stack;
mod waking;

/// The kernel asks for a licence compatible with the GPL by this name.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
