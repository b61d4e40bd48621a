package guestmem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// credentials is the room for the control message of SO_PASSCRED, and for no
// other: a sender's descriptors find none behind it, and stay outside. It is
// CMSG_SPACE(sizeof(struct ucred)).
type credentials [unix.SizeofCmsghdr + (unix.SizeofUcred+7)&^7]byte

// SendTo sends the ranges as one message to the SOCK_SEQPACKET socket fd, an empty
// one where they have no bytes; it neither blocks nor raises SIGPIPE. All of it
// has gone, or nothing: errors are as for ReadFrom, and EMSGSIZE for more than the
// socket takes at once or more than 1024 ranges.
func (b *Buffers) SendTo(fd, from, to int) error {
	var msg unix.Msghdr
	b.point(&msg, from, to)
	_, err := sendmsg(fd, &msg)
	return err
}

// ReceiveFrom fills the ranges with one message of the SOCK_SEQPACKET socket fd and
// returns its true length: what does not fit is lost. message tells whether there
// was one at all, provided that SO_PASSCRED is set: every message brings a control
// message, an empty one too, and end of file brings none. Errors are as for
// ReadFrom, and EMSGSIZE for more than 1024 ranges.
func (b *Buffers) ReceiveFrom(fd, from, to int) (n int, message bool, err error) {
	return b.receive(fd, from, to, unix.MSG_TRUNC)
}

// PeekFrom is ReceiveFrom, but the message stays in the socket. n is what there is
// of it behind SO_PEEK_OFF.
func (b *Buffers) PeekFrom(fd, from, to int) (n int, message bool, err error) {
	return b.receive(fd, from, to, unix.MSG_TRUNC|unix.MSG_PEEK)
}

func (b *Buffers) receive(fd, from, to int, flags uintptr) (n int, message bool, err error) {
	var control credentials
	var msg unix.Msghdr
	b.point(&msg, from, to)
	msg.Control = &control[0]
	for {
		msg.SetControllen(len(control))
		// SAFETY: the kernel writes to msg and control, which outlive the call, and
		// inside the ranges.
		got, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), flags|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
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
