//! Entropy, asked for once at the start.

use alloc::boxed::Box;

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use super::{Found, Identity};
use crate::irq;

/// Reads 16 random bytes from the device, halting meanwhile.
pub fn entropy(mut found: Found) -> [u8; 16] {
    found.negotiate(0);
    let mut transport = found.transport;
    let mut queue: VirtQueue<Identity, 8> =
        VirtQueue::new(&mut transport, 0, false, false).expect("the entropy queue");
    transport.finish_init();
    let mut result = [0; 16];
    let mut have = 0;
    while have < result.len() {
        let mut buffer = Box::new([0_u8; 16]);
        // SAFETY: the buffer stays where it is, untouched, until `pop_used` below.
        let token = unsafe { queue.add(&[], &mut [&mut buffer[..]]) }.expect("room for one buffer");
        transport.notify(0);
        while !queue.can_pop() {
            irq::wait();
        }
        // SAFETY: the very buffer that was added with this token.
        let length = unsafe { queue.pop_used(token, &[], &mut [&mut buffer[..]]) }.expect("our buffer");
        let length = (length as usize).clamp(1, result.len() - have);
        result[have..have + length].copy_from_slice(&buffer[..length]);
        have += length;
    }
    // The device keeps its place but is not used again; dropping the transport resets it.
    drop(transport);
    result
}
