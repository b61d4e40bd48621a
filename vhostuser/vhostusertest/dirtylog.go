package vhostusertest

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

const logPage = 4096 // VHOST_LOG_PAGE

// DirtyLog is a log of dirty pages, as the frontend has it.
type DirtyLog struct {
	fd     int
	offset uint64
	bits   []byte
}

// NewDirtyLog returns a log without a mark, of size bytes at offset in a file of
// its own, which ends there. It ends with the test.
func NewDirtyLog(tb testing.TB, size, offset uint64) *DirtyLog {
	tb.Helper()
	fd, err := unix.MemfdCreate("log", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal("memfd_create:", err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	length := int(size + offset)
	if err := unix.Ftruncate(fd, int64(length)); err != nil {
		tb.Fatal("ftruncate:", err)
	}
	file, err := unix.Mmap(fd, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		tb.Fatal("mmap:", err)
	}
	tb.Cleanup(func() { unix.Munmap(file) })
	return &DirtyLog{fd: fd, offset: offset, bits: file[offset:]}
}

// Region returns the payload of VHOST_USER_SET_LOG_BASE.
func (l *DirtyLog) Region() vhostuser.LogRegion {
	return vhostuser.LogRegion{Size: uint64(len(l.bits)), Offset: l.offset}
}

// Fd returns the log's file. It remains the log's.
func (l *DirtyLog) Fd() int { return l.fd }

// Pages returns the marked pages, by guest address.
func (l *DirtyLog) Pages() map[uint64]bool {
	pages := make(map[uint64]bool)
	for i, b := range l.bits {
		for bit := range 8 {
			if b>>bit&1 != 0 {
				pages[uint64(8*i+bit)*logPage] = true
			}
		}
	}
	return pages
}

// Shrink cuts the log's file down to nothing, as a hostile frontend can.
func (l *DirtyLog) Shrink(tb testing.TB) {
	tb.Helper()
	if err := unix.Ftruncate(l.fd, 0); err != nil {
		tb.Fatal("ftruncate:", err)
	}
}

// SetLogBase sends VHOST_USER_SET_LOG_BASE and wants the log's place as its reply.
func (f *Frontend) SetLogBase(l *DirtyLog) {
	f.tb.Helper()
	region := l.Region().AppendTo(nil)
	f.Write(Message(vhostuser.MsgSetLogBase, f.flags(), region), l.fd)
	f.equal("reply to SET_LOG_BASE", f.Reply(vhostuser.MsgSetLogBase), region)
}

// SetLogFd sends VHOST_USER_SET_LOG_FD.
func (f *Frontend) SetLogFd(fd int) { f.tb.Helper(); f.set(vhostuser.MsgSetLogFd, nil, fd) }
