package guestmem

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// view returns the bytes of a range.
func view(v *unix.Iovec) []byte {
	// SAFETY: ranges are made from slices of a mapping and only ever shrink.
	return unsafe.Slice(v.Base, v.Len)
}

// advance drops the first n bytes of a range.
//
// Preconditions: n <= v.Len.
func advance(v *unix.Iovec, n uint64) {
	if v.Len -= n; v.Len > 0 {
		// SAFETY: bytes are left, so the new start is inside the range.
		v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
	}
}

// ReadFrom fills the ranges from the SOCK_STREAM socket fd by one recvmsg, which
// does not block. It returns how many bytes came; 0 means end of file, or that
// there was no room. cut tells that descriptors of the sender, which are dropped,
// ended the read: else, where fewer bytes came than there was room for, the socket
// had no more before one that was sent with MSG_OOB. The error is unix.EAGAIN
// itself, or an *os.SyscallError: EFAULT when the memory is gone.
func (b *Buffers) ReadFrom(fd, from, to int) (n int, cut bool, err error) {
	iov := b.vector(from, to)
	if len(iov) == 0 {
		return 0, false, nil
	}
	var msg unix.Msghdr
	msg.Iov = &iov[0]
	msg.SetIovlen(len(iov))
	for {
		// SAFETY: the kernel writes to msg, which outlives the call, and inside the
		// ranges, which lie in mappings.
		got, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT)
		if errno != unix.EINTR {
			n, err = result("recvmsg", got, errno)
			return n, msg.Flags&unix.MSG_CTRUNC != 0, err
		}
	}
}

// WriteTo sends the ranges to the socket fd by one sendmsg, which neither blocks
// nor raises SIGPIPE. It returns how many bytes went; the first 1024 ranges are
// tried. Errors are as for ReadFrom.
func (b *Buffers) WriteTo(fd, from, to int) (int, error) {
	iov := b.vector(from, to)
	if len(iov) == 0 {
		return 0, nil
	}
	var msg unix.Msghdr
	msg.Iov = &iov[0]
	msg.SetIovlen(len(iov))
	return sendmsg(fd, &msg)
}

// sendmsg sends what msg refers to, ranges of a Buffers.
func sendmsg(fd int, msg *unix.Msghdr) (int, error) {
	for {
		// SAFETY: the kernel reads msg, which outlives the call, and the ranges.
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errno != unix.EINTR {
			return result("sendmsg", n, errno)
		}
	}
}

// result turns what a system call answered into what an io method does. EAGAIN
// is everyday and must not allocate.
func result(call string, n uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN:
		return 0, unix.EAGAIN
	default:
		return 0, os.NewSyscallError(call, errno)
	}
}
