//! A guest that attacks: machine code that drives every virtio device into the state in which it works, and then fills its
//! rings, descriptors and registers with numbers that look almost right.

/// Registers of the first device, and of each one after it.
const DEVICES: u32 = 0xd000_0000;
const APART: u32 = 0x1000;

/// Where the rings are, which all queues of a device share in turns, and what descriptors point at first.
const RINGS: u32 = 0x20_0000;
const AVAILABLE: u32 = 0x1000;
const USED: u32 = 0x2000;
const HEADER: u32 = 0x30_0000;

/// Descriptors of a ring.
const SIZE: u32 = 16;

/// mov dword [address], value
fn store(address: u32, value: u32) -> Vec<u8> {
    [&[0xc7, 0x05][..], &address.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// The next number of a sequence, in ebp: ebp ^= ebp << 13, >> 17, << 5.
const NEXT: &[u8] = &[
    0x89, 0xe8, 0xc1, 0xe0, 0x0d, 0x31, 0xc5, 0x89, 0xe8, 0xc1, 0xe8, 0x11, 0x31, 0xc5, 0x89, 0xe8, 0xc1,
    0xe0, 0x05, 0x31, 0xc5,
];

/// Stores a number of which only the bits of `mask` are left to chance: and eax, mask; or eax, set; mov [address], eax
fn chance(address: u32, mask: u32, set: u32) -> Vec<u8> {
    let [mask, set, address] = [mask, set, address].map(u32::to_le_bytes);
    [NEXT, &[0x89, 0xe8, 0x25], &mask, &[0x0d], &set, &[0xa3], &address].concat()
}

/// inc word [address]
fn increment(address: u32) -> Vec<u8> {
    [&[0x66, 0xff, 0x05][..], &address.to_le_bytes()].concat()
}

/// Runs `body` so many times: mov ecx, times; push ecx; body; pop ecx; dec ecx; jnz
fn repeat(times: u32, body: &[u8]) -> Vec<u8> {
    let back = -i32::try_from(body.len() + 1 + 1 + 1 + 6).unwrap();
    let head = [&[0xb9][..], &times.to_le_bytes()].concat();
    [&head[..], &[0x51], body, &[0x59, 0x49, 0x0f, 0x85], &back.to_le_bytes()].concat()
}

/// What a driver does until the device works, all its queues at the same place.
fn start(device: u32, queues: u32) -> Vec<u8> {
    let register = |offset: u32, value: u32| store(DEVICES + device * APART + offset, value);
    let mut code = [register(0x70, 0), register(0x70, 1), register(0x70, 3)].concat();
    code.extend([register(0x24, 1), register(0x20, 1), register(0x70, 11)].concat());
    for queue in 0..queues {
        code.extend([register(0x30, queue), register(0x38, SIZE)].concat());
        let places = [(0x80, RINGS), (0x90, RINGS + AVAILABLE), (0xa0, RINGS + USED)];
        code.extend(places.into_iter().flat_map(|(offset, place)| register(offset, place)));
        code.extend([register(0x84, 0), register(0x94, 0), register(0xa4, 0), register(0x44, 1)].concat());
    }
    [code, register(0x70, 15)].concat()
}

/// Fills the rings, and tells the device.
fn round(device: u32, queues: u32) -> Vec<u8> {
    let mut code = Vec::new();
    for index in 0..SIZE {
        let at = RINGS + index * 16;
        // Mostly within 16 MiB of memory, sometimes not; up to 128 KiB; readable, writable, chained, indirect. Never where this
        // code is, below 2 MiB: a guest that has its devices overwrite itself is soon at its end.
        code.extend(chance(at, 0x01ff_ffff, RINGS));
        code.extend(chance(at + 4, if index % 8 == 7 { 1 } else { 0 }, 0));
        code.extend(chance(at + 8, 0x1_ffff, 0));
        code.extend(chance(at + 12, 0x000f_0007, 0));
        code.extend(chance(RINGS + AVAILABLE + 4 + index / 2 * 4, 0x000f_000f, 0));
    }
    // The first descriptor is a plausible request: a header of the right length, and a chain behind it.
    code.extend(store(RINGS, HEADER));
    code.extend(store(RINGS + 4, 0));
    code.extend(chance(RINGS + 8, 0x10, 51));
    code.extend(store(RINGS + 12, 0x0001_0001));
    code.extend(store(HEADER, 0x0040_0001));
    code.extend((4..13).flat_map(|word| chance(HEADER + word * 4, u32::MAX, 0)));
    code.extend(increment(RINGS + AVAILABLE + 2));
    code.extend((0..queues).flat_map(|queue| store(DEVICES + device * APART + 0x50, queue)));
    code
}

/// A ring that runs ahead of itself: nothing that a device could go on with.
fn ahead(device: u32, queues: u32) -> Vec<u8> {
    let tell = (0..queues).flat_map(|queue| store(DEVICES + device * APART + 0x50, queue));
    store(RINGS + AVAILABLE, 0x4000_0000).into_iter().chain(tell).collect()
}

/// Writes to a register of the device and to a port of the console that are left to chance.
fn elsewhere(device: u32) -> Vec<u8> {
    let base = (DEVICES + device * APART).to_le_bytes();
    let mut code = NEXT.to_vec();
    // mov ebx, ebp; and ebx, 0x1fc; or ebx, base; mov eax, ebp; shr eax, 24; mov [ebx], eax; mov eax, [ebx]; mov [ebx], al
    code.extend([&[0x89, 0xeb, 0x81, 0xe3, 0xfc, 1, 0, 0, 0x81, 0xcb][..], &base].concat());
    code.extend([0x89, 0xe8, 0xc1, 0xe8, 0x18, 0x89, 0x03, 0x8b, 0x03, 0x88, 0x03]);
    // mov edx, ebp; shr edx, 16; and edx, 0x7; add edx, 0x3f9; in al, dx; out dx, al
    code.extend([0x89, 0xea, 0xc1, 0xea, 0x10, 0x83, 0xe2, 7, 0x81, 0xc2, 0xf9, 3, 0, 0, 0xec, 0xee]);
    code
}

/// The whole guest: `devices` are the numbers of queues of each. It says "done" and loops.
pub(crate) fn guest(devices: &[u32], times: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for (number, queues) in (0_u32..).zip(devices) {
        // The rings begin anew: their indices are 0.
        let fresh = [store(RINGS + AVAILABLE, 0), store(RINGS + USED, 0)].concat();
        let work = repeat(12, &round(number, *queues));
        let begin = [fresh, start(number, *queues)].concat();
        body.extend(
            [&begin[..], &work, &repeat(4, &elsewhere(number)), &begin, &ahead(number, *queues)].concat(),
        );
    }
    // mov esp, 0x8000; mov ebp, a number to begin with
    let begin = [0xbc, 0, 0x80, 0, 0, 0xbd, 0xb9, 0x79, 0x37, 0x9e];
    let say = b"\ndone\n".iter().flat_map(|byte| [0xb0, *byte, 0xee]);
    // The console's registers may be in any state: divisor access and loopback are switched off first.
    let console =
        [0x66, 0xba, 0xfb, 3, 0xb0, 3, 0xee, 0x66, 0xba, 0xfc, 3, 0xb0, 0, 0xee, 0x66, 0xba, 0xf8, 3];
    let end: Vec<u8> = console.into_iter().chain(say).chain([0xeb, 0xfe]).collect();
    [&begin[..], &repeat(times, &body), &end].concat()
}
