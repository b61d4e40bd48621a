package guestmem

import "golang.org/x/sys/unix"

// AppendPrivate adds memory of the process's own, none if it is empty, so that one
// system call moves it together with guest memory. b keeps it from being freed
// until its place in the list is used again.
func (b *Buffers) AppendPrivate(p []byte) {
	if len(p) > 0 {
		b.iov = append(b.iov, unix.Iovec{Base: &p[0], Len: uint64(len(p))})
	}
}
