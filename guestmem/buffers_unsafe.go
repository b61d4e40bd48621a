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

// ReadFrom fills the ranges from fd, which should not block, by one readv. It
// returns how many bytes came; 0 means end of file, or that there was no room.
// The error is unix.EAGAIN itself, or an *os.SyscallError: EFAULT when the
// memory is gone.
func (b *Buffers) ReadFrom(fd, from, to int) (int, error) {
	iov := b.vector(from, to)
	if len(iov) == 0 {
		return 0, nil
	}
	for {
		// SAFETY: the kernel writes inside the ranges, which lie in mappings.
		n, _, errno := unix.Syscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
		if errno != unix.EINTR {
			return result("readv", n, errno)
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
