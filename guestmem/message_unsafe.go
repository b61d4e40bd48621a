package guestmem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlSpace is how many bytes SCM_CREDENTIALS takes of a control buffer. One of
// this size has no room for descriptors that the sender passes along: the kernel
// drops them.
const controlSpace = 32

// SendTo sends the ranges as one message to the SOCK_SEQPACKET socket fd, an empty
// one where they have no bytes; it neither blocks nor raises SIGPIPE. All of it
// has gone, or nothing: errors are as for ReadFrom, and EMSGSIZE for more than the
// socket takes at once or more than 1024 ranges.
func (b *Buffers) SendTo(fd, from, to int) error {
	var msg unix.Msghdr
	b.point(&msg, from, to)
	for {
		// SAFETY: the kernel reads msg, which outlives the call, and the ranges.
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errno != unix.EINTR {
			_, err := result("sendmsg", n, errno)
			return err
		}
	}
}

// PeekFrom is ReceiveFrom, but the message stays in the socket. n is what there is
// of it behind SO_PEEK_OFF.
func (b *Buffers) PeekFrom(fd, from, to int) (n int, message bool, err error) {
	return b.receive(fd, from, to, unix.MSG_TRUNC|unix.MSG_PEEK)
}

func (b *Buffers) receive(fd, from, to int, flags uintptr) (n int, message bool, err error) {
	var control [controlSpace / 8]uint64 // aligned as it has to be
	var msg unix.Msghdr
	b.point(&msg, from, to)
	for {
		// SAFETY: control has the length that the kernel is told.
		msg.Control = (*byte)(unsafe.Pointer(&control))
		msg.SetControllen(controlSpace)
		// SAFETY: the kernel writes to msg and control, which outlive the call, and
		// inside the ranges.
		got, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), flags|unix.MSG_DONTWAIT)
		if errno != unix.EINTR {
			n, err = result("recvmsg", got, errno)
			return n, err == nil && msg.Controllen > 0, err
		}
	}
}

// point has msg refer to the ranges.
func (b *Buffers) point(msg *unix.Msghdr, from, to int) {
	if from < to {
		msg.Iov = &b.iov[from]
		msg.SetIovlen(to - from)
	}
}
