package guestmem

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
)

// messages returns a connected pair of which ours tells messages from end of file.
func messages(tb testing.TB) (ours, theirs int) {
	tb.Helper()
	ours, theirs = stream(tb, unix.SOCK_SEQPACKET)
	if err := unix.SetsockoptInt(ours, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		tb.Fatal(err)
	}
	return ours, theirs
}

func send(tb testing.TB, fd int, p []byte) {
	tb.Helper()
	if err := unix.Sendto(fd, p, 0, nil); err != nil {
		tb.Fatal("send:", err)
	}
}

func TestReceiveFrom(t *testing.T) {
	table := mapAll(t, at(0, page), at(page, page))
	sent := pattern(100)
	for _, c := range []struct {
		name string
		room []uint32 // lengths of the ranges, from before a boundary on
		send []byte
	}{
		{"a whole message", []uint32{100}, sent},
		{"with room to spare", []uint32{200}, sent},
		{"in pieces, across regions", []uint32{1, 0, 20, 79}, sent},
		{"a byte too long", []uint32{50, 49}, sent},
		{"far too long", []uint32{1}, sent},
		{"no room", nil, sent},
		{"empty room", []uint32{0, 0}, sent},
		{"empty", []uint32{10}, nil},
		{"empty, no room", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := messages(t)
			send(t, theirs, c.send)
			send(t, theirs, []byte("next"))
			before := make([]byte, 2*page)
			fill(t, table, 0, before)
			var b Buffers
			addr, room := uint64(page-10), 0
			for _, n := range c.room {
				b.Append(table, addr, n)
				addr += uint64(n)
				room += int(n)
			}
			n, message, err := b.ReceiveFrom(ours, 0, b.Len())
			if n != len(c.send) || !message || err != nil {
				t.Errorf("%d bytes, %v, %v; want a message of %d", n, message, err, len(c.send))
			}
			copy(before[page-10:], c.send[:min(room, len(c.send))])
			after := make([]byte, 2*page)
			if err := table.Read(0, after); err != nil || !bytes.Equal(after, before) {
				t.Errorf("memory holds other bytes (%v)", err)
			}
			// The rest of a message is gone; the next is whole.
			b.Reset()
			b.Append(table, 0, 10)
			if n, message, err := b.ReceiveFrom(ours, 0, 1); n != 4 || !message || err != nil {
				t.Errorf("next: %d bytes, %v, %v", n, message, err)
			}
		})
	}
}

func TestReceiveFromWithoutMessage(t *testing.T) {
	table := mapAll(t, at(0, page))
	ours, theirs := messages(t)
	var b Buffers
	b.Append(table, 0, 10)
	for _, to := range []int{0, 1} {
		if n, message, err := b.ReceiveFrom(ours, 0, to); n != 0 || message || err != unix.EAGAIN {
			t.Errorf("nothing there: %d bytes, %v, %v", n, message, err)
		}
	}
	send(t, theirs, nil)
	unix.Shutdown(theirs, unix.SHUT_WR)
	if n, message, err := b.ReceiveFrom(ours, 0, 1); n != 0 || !message || err != nil {
		t.Errorf("empty message before the end: %d bytes, %v, %v", n, message, err)
	}
	for range 2 {
		if n, message, err := b.ReceiveFrom(ours, 0, 1); n != 0 || message || err != nil {
			t.Errorf("end of file: %d bytes, %v, %v", n, message, err)
		}
	}
}

func TestReceiveFromErrors(t *testing.T) {
	fd := guestmemtest.Memfd(t, 2*page)
	table, err := Map([]Region{at(0, 2*page)}, []int{fd})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	var b Buffers
	b.Append(table, page, 100)
	var sys *os.SyscallError
	if _, message, err := b.ReceiveFrom(-1, 0, 1); message || !errors.Is(err, unix.EBADF) || !errors.As(err, &sys) || sys.Syscall != "recvmsg" {
		t.Errorf("no socket: %v, %v", message, err)
	}
	ours, theirs := messages(t)
	send(t, theirs, []byte("x"))
	if err := unix.Ftruncate(fd, page); err != nil {
		t.Fatal(err)
	}
	if _, message, err := b.ReceiveFrom(ours, 0, 1); message || !errors.Is(err, unix.EFAULT) {
		t.Errorf("memory gone: %v, %v", message, err)
	}
}

// Descriptors that a program passes along do not come into the process.
func TestReceiveFromTakesNoDescriptors(t *testing.T) {
	table := mapAll(t, at(0, page))
	ours, theirs := messages(t)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(event)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	var b Buffers
	b.Append(table, 0, 10)
	for _, n := range []int{1, 4, 250} {
		fds := make([]int, n)
		for i := range fds {
			fds[i] = event
		}
		if err := unix.Sendmsg(theirs, []byte("take this"), unix.UnixRights(fds...), nil, 0); err != nil {
			t.Fatal(err)
		}
		if n, message, err := b.ReceiveFrom(ours, 0, 1); n != 9 || !message || err != nil {
			t.Errorf("%d bytes, %v, %v", n, message, err)
		}
		if after := count(); after != before {
			t.Fatalf("%d descriptors before, %d after", before, after)
		}
	}
}

func TestReceiveFromDoesNotAllocate(t *testing.T) {
	table := mapAll(t, at(0, page))
	ours, theirs := messages(t)
	var b, out Buffers
	b.Append(table, 0, 100)
	out.Append(table, 1000, 64)
	turn := func() {
		if _, err := out.WriteTo(theirs, 0, 1); err != nil {
			t.Fatal(err)
		}
		if n, message, err := b.ReceiveFrom(ours, 0, 1); n != 64 || !message || err != nil {
			t.Fatalf("%d bytes, %v, %v", n, message, err)
		}
		if _, _, err := b.ReceiveFrom(ours, 0, 1); err != unix.EAGAIN {
			t.Fatal(err)
		}
	}
	if allocs := testing.AllocsPerRun(100, turn); allocs != 0 {
		t.Errorf("%v allocations a turn", allocs)
	}
}
