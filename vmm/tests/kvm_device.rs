#![allow(unsafe_code)] // Whoever stands before the kernel promises to answer as the kernel would.
//! The KVM layer against the machine's own `/dev/kvm`, with guests of a few instructions.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;

use coffer_vmm::event::Event;
use coffer_vmm::kvm::{
    Call, Cpu, Exit, Kernel, Kick, Kvm, KvmError, MachineKind, Notification, Start, Sys, Vm, prepare_thread,
};
use coffer_vmm::memory::{self, Backing, Memory, Shown};
use vm_memory::{Bytes, GuestAddress};

/// Where the guests' code lies.
const CODE: u32 = 0x1000;

/// An address that no memory is at.
const NOWHERE: u64 = 0xd000_0000;

/// `/dev/kvm`, or a word that it is missing.
fn device(test: &str) -> Option<File> {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(device) => Some(device),
        Err(error) => {
            // Past the test runner, which shows nothing of a test that passes.
            let _ = writeln!(std::io::stderr(), "skipped: {test}: /dev/kvm: {error}");
            None
        }
    }
}

fn memory_with(code: &[u8]) -> Memory {
    let memory = memory::create(2, Backing::default()).unwrap();
    memory.write_slice(code, GuestAddress(u64::from(CODE))).unwrap();
    memory
}

fn guest(device: File, code: &[u8]) -> (Vm, Cpu) {
    let kvm = Kvm::new(device.into()).unwrap();
    assert_eq!(kvm.lacking().unwrap(), Vec::<&str>::new());
    let vm = kvm.create(MachineKind::Plain, memory_with(code)).unwrap();
    let cpu = vm.create_cpu(0).unwrap();
    cpu.start(Start::Protected { instruction: CODE, info: 0x5000 }).unwrap();
    (vm, cpu)
}

#[test]
fn a_guest_writes_and_reads_a_port() {
    let Some(device) = device("a_guest_writes_and_reads_a_port") else { return };
    // mov dx, 0x3f8; mov al, 'c'; out dx, al; in al, dx; out 0x80, al; hlt
    let code = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'c', 0xee, 0xec, 0xe6, 0x80, 0xf4];
    let (_vm, mut cpu) = guest(device, &code);
    let Exit::PortOut(0x3f8, data) = cpu.run().unwrap() else { panic!("no write to the port") };
    assert_eq!((&*data.bytes, data.size), (&[b'c'][..], 1));
    let Exit::PortIn(0x3f8, data) = cpu.run().unwrap() else { panic!("no read of the port") };
    data.bytes[0] = b'o';
    let Exit::PortOut(0x80, data) = cpu.run().unwrap() else { panic!("no second write") };
    assert_eq!(data.bytes, b"o");
    assert!(matches!(cpu.run().unwrap(), Exit::Halted));
}

#[test]
fn a_guest_writes_and_reads_where_no_memory_is() {
    let Some(device) = device("a_guest_writes_and_reads_where_no_memory_is") else { return };
    // mov dword [0xd0000000], 0x12345678; mov eax, [0xd0000000]; mov [0x3000], eax; hlt
    let code =
        [0xc7, 0x05, 0, 0, 0, 0xd0, 0x78, 0x56, 0x34, 0x12, 0xa1, 0, 0, 0, 0xd0, 0xa3, 0, 0x30, 0, 0, 0xf4];
    let (vm, mut cpu) = guest(device, &code);
    let Exit::MemoryWrite(NOWHERE, data) = cpu.run().unwrap() else { panic!("no write") };
    assert_eq!(data, 0x1234_5678_u32.to_le_bytes());
    let Exit::MemoryRead(NOWHERE, data) = cpu.run().unwrap() else { panic!("no read") };
    data.copy_from_slice(&[1, 2, 3, 4]);
    assert!(matches!(cpu.run().unwrap(), Exit::Halted));
    assert_eq!(vm.memory().read_obj::<u32>(GuestAddress(0x3000)).unwrap(), 0x0403_0201);
}

#[test]
fn a_guest_is_told_where_its_information_is() {
    let Some(device) = device("a_guest_is_told_where_its_information_is") else { return };
    // mov [0x3000], ebx; hlt
    let (vm, mut cpu) = guest(device, &[0x89, 0x1d, 0, 0x30, 0, 0, 0xf4]);
    assert!(matches!(cpu.run().unwrap(), Exit::Halted));
    assert_eq!(vm.memory().read_obj::<u32>(GuestAddress(0x3000)).unwrap(), 0x5000);
}

#[test]
fn memory_above_the_gap_is_the_guests_too() {
    let Some(device) = device("memory_above_the_gap_is_the_guests_too") else { return };
    // In 64-bit mode: mov rax, 0x1_0000_0000; mov byte [rax], 7; hlt
    let code = [0x48, 0xb8, 0, 0, 0, 0, 1, 0, 0, 0, 0xc6, 0x00, 7, 0xf4];
    let memory = memory::create(3 * 1024 + 2, Backing::default()).unwrap();
    memory.write_slice(&code, GuestAddress(u64::from(CODE))).unwrap();
    // Tables of 2 MiB pages: one for the code, one for what is at 4 GiB.
    for (place, entry) in [
        (0x8000, 0x9003_u64),
        (0x9000, 0xa003),
        (0x9000 + 4 * 8, 0xb003),
        (0xa000, 0x83),
        (0xb000, 0x1_0000_0083),
    ] {
        memory.write_obj(entry, GuestAddress(place)).unwrap();
    }
    let kvm = Kvm::new(device.into()).unwrap();
    let vm = kvm.create(MachineKind::Plain, memory).unwrap();
    let mut cpu = vm.create_cpu(0).unwrap();
    cpu.set_cpuid(&kvm.supported_cpuid().unwrap()).unwrap();
    let instruction = u64::from(CODE);
    cpu.start(Start::Long { instruction, info: 0, page_tables: 0x8000, descriptors: 0x500 }).unwrap();
    let exit = format!("{:?}", cpu.run().unwrap());
    assert_eq!(exit, "Halted", "at {:#x}", cpu.instruction_pointer().unwrap());
    assert_eq!(vm.memory().read_obj::<u8>(GuestAddress(0x1_0000_0000)).unwrap(), 7);
}

#[test]
fn a_notification_is_counted_without_stopping_the_guest() {
    let Some(device) = device("a_notification_is_counted_without_stopping_the_guest") else { return };
    // mov dword [0xd0000050], 1, twice; mov dword [0xd0000050], 2; hlt
    let write = |value| [0xc7, 0x05, 0x50, 0, 0, 0xd0, value, 0, 0, 0];
    let code = [&write(1)[..], &write(1), &write(2), &[0xf4]].concat();
    let (vm, mut cpu) = guest(device, &code);
    let event = Event::new().unwrap();
    let notification = Notification::Memory { address: NOWHERE + 0x50, value: 1 };
    vm.connect_notification(event.as_fd(), notification).unwrap();
    let Exit::MemoryWrite(address, data) = cpu.run().unwrap() else { panic!("the other value is no exit") };
    assert_eq!((address, data), (NOWHERE + 0x50, &[2, 0, 0, 0][..]));
    assert_eq!(event.take(), 2);
    assert!(matches!(cpu.run().unwrap(), Exit::Halted));
}

#[test]
fn a_guest_reads_what_is_shown_without_stopping_and_cannot_write_it() {
    let name = "a_guest_reads_what_is_shown_without_stopping_and_cannot_write_it";
    let Some(device) = device(name) else { return };
    // mov eax, [0xd0000008]; mov [0x3000], eax; mov dword [0xd0000064], 1; mov dword [0xd0000008], 0x12345678;
    // mov eax, [0xd0000008]; mov [0x3004], eax; hlt
    let code = [
        &[0xa1, 8, 0, 0, 0xd0, 0xa3, 0, 0x30, 0, 0, 0xc7, 0x05, 0x64, 0, 0, 0xd0, 1, 0, 0, 0][..],
        &[0xc7, 0x05, 8, 0, 0, 0xd0, 0x78, 0x56, 0x34, 0x12, 0xa1, 8, 0, 0, 0xd0, 0xa3, 4, 0x30, 0, 0, 0xf4],
    ]
    .concat();
    let kvm = Kvm::new(device.into()).unwrap();
    let mut vm = kvm.create(MachineKind::Plain, memory_with(&code)).unwrap();
    let shown = Shown::new(1).unwrap();
    shown.page(0).unwrap().set(8, 0x0403_0201);
    vm.show(shown.clone(), NOWHERE).unwrap();
    let event = Event::new().unwrap();
    let notification = Notification::Memory { address: NOWHERE + 0x64, value: 1 };
    vm.connect_notification(event.as_fd(), notification).unwrap();
    let mut cpu = vm.create_cpu(0).unwrap();
    cpu.start(Start::Protected { instruction: CODE, info: 0 }).unwrap();
    // The first stop: neither the read before nor the write that is turned into an event was one.
    let Exit::MemoryWrite(address, data) = cpu.run().unwrap() else { panic!("no write") };
    assert_eq!((address, data, event.take()), (NOWHERE + 8, &0x1234_5678_u32.to_le_bytes()[..], 1));
    shown.page(0).unwrap().set(8, 9);
    assert!(matches!(cpu.run().unwrap(), Exit::Halted));
    let read = [0x3000, 0x3004].map(|at| vm.memory().read_obj::<u32>(GuestAddress(at)).unwrap());
    assert_eq!(read, [0x0403_0201, 9]);
}

#[test]
fn an_event_interrupts_a_waiting_guest() {
    let Some(device) = device("an_event_interrupts_a_waiting_guest") else { return };
    #[rustfmt::skip]
    let code = [
        // The first i8259: initialise, vectors from 0x20, no second one looked at, 8086 mode; line 5 is not masked.
        0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21,
        0xb0, 0xdf, 0xe6, 0x21,
        0xe6, 0x80, // out 0x80, al: ready
        0xfb, 0xf4, // sti; hlt
        0xeb, 0xfd, // jmp to the hlt
    ];
    // The handler: mov al, 'i'; out 0x81, al; iret
    let handler = [0xb0, b'i', 0xe6, 0x81, 0xcf];
    let memory = memory_with(&code);
    memory.write_slice(&handler, GuestAddress(0x2000)).unwrap();
    memory.write_obj(0x2000_u32, GuestAddress(0x25 * 4)).unwrap();
    let vm = Kvm::new(device.into()).unwrap().create(MachineKind::Plain, memory).unwrap();
    vm.create_interrupt_controllers().unwrap();
    let event = Event::new().unwrap();
    vm.connect_interrupt(event.as_fd(), 5).unwrap();
    let mut cpu = vm.create_cpu(0).unwrap();
    cpu.start(Start::Real { instruction: 0x1000 }).unwrap();
    let Exit::PortOut(0x80, _) = cpu.run().unwrap() else { panic!("the guest is not ready") };
    event.signal();
    let Exit::PortOut(0x81, data) = cpu.run().unwrap() else { panic!("no interrupt came") };
    assert_eq!(data.bytes, b"i");
}

/// Runs a guest that never stops by itself on a thread of its own, which says when it is about to, and why it stopped.
fn running(mut cpu: Cpu) -> (Kick, std::thread::JoinHandle<Cpu>) {
    let (send, receive) = channel();
    let thread = std::thread::spawn(move || {
        send.send(cpu.kick()).unwrap();
        let exit = cpu.run().unwrap();
        assert!(matches!(exit, Exit::Interrupted), "{exit:?}");
        cpu
    });
    (receive.recv().unwrap(), thread)
}

#[test]
fn a_running_guest_is_paused_and_resumed() {
    let Some(device) = device("a_running_guest_is_paused_and_resumed") else { return };
    prepare_thread().unwrap();
    // inc dword [0x3000]; jmp back
    let (vm, cpu) = guest(device, &[0xff, 0x05, 0, 0x30, 0, 0, 0xeb, 0xf8]);
    let counted = || vm.memory().load::<u32>(GuestAddress(0x3000), Ordering::SeqCst).unwrap();
    let mut cpu = cpu;
    for _ in 0..3 {
        let before = counted();
        let (kick, thread) = running(cpu);
        while counted() == before {
            std::thread::yield_now();
        }
        kick.kick();
        cpu = thread.join().unwrap();
        let paused = counted();
        assert_eq!(counted(), paused);
    }
}

#[test]
fn a_kick_before_the_guest_runs_is_not_lost() {
    let Some(device) = device("a_kick_before_the_guest_runs_is_not_lost") else { return };
    prepare_thread().unwrap();
    let (_vm, mut cpu) = guest(device, &[0xeb, 0xfe]); // jmp to itself
    cpu.kick().kick();
    assert!(matches!(cpu.run().unwrap(), Exit::Interrupted));
}

#[test]
fn a_guest_without_exception_handlers_ends_in_a_triple_fault() {
    let Some(device) = device("a_guest_without_exception_handlers_ends_in_a_triple_fault") else { return };
    let (_vm, mut cpu) = guest(device, &[0x0f, 0x0b]); // ud2
    let exit = format!("{:?}", cpu.run().unwrap());
    assert_eq!(exit, "TripleFault");
}

/// Fails one kind of request, and lets the kernel do the others.
#[derive(Debug)]
struct Refusing {
    request: &'static str,
    asked: AtomicU32,
}

// SAFETY: what is not refused is the kernel's answer.
unsafe impl Sys for Refusing {
    fn ioctl(&self, fd: std::os::fd::BorrowedFd<'_>, call: Call<'_>) -> std::io::Result<i32> {
        if call.request().name() == self.request {
            self.asked.fetch_add(1, Ordering::SeqCst);
            return Err(std::io::Error::from_raw_os_error(libc::ENOMEM));
        }
        Kernel.ioctl(fd, call)
    }
}

#[test]
fn what_the_kernel_refuses_is_named() {
    let Some(device) = device("what_the_kernel_refuses_is_named") else { return };
    let refusing = Arc::new(Refusing { request: "KVM_SET_USER_MEMORY_REGION", asked: AtomicU32::new(0) });
    let kvm = Kvm::with(device.into(), Arc::clone(&refusing) as Arc<dyn Sys>).unwrap();
    let error: KvmError = kvm.create(MachineKind::Plain, memory_with(&[])).unwrap_err();
    assert_eq!(error.to_string(), "KVM_SET_USER_MEMORY_REGION failed");
    assert_eq!(error.source.raw_os_error(), Some(libc::ENOMEM));
    assert_eq!(refusing.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_file_that_is_not_kvm_is_refused() {
    let error = Kvm::new(File::open("/dev/null").unwrap().into()).unwrap_err();
    assert_eq!(error.request.name(), "KVM_GET_API_VERSION");
}
