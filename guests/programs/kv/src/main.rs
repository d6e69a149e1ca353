#![no_std]
#![no_main]
rt::entry!(run);
fn run(boot: &rt::BootInfo) -> u8 { rt::println!("[{}] heap {}", boot.cmdline, rt::heap_size()); for f in rt::virtio::discover(boot) { rt::println!("{:?}", f.kind()); } 0 }
