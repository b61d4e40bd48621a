package guestmem

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// messageSockets returns a connected pair that tells messages from end of file.
func messageSockets(tb testing.TB) (ours, theirs int) {
	tb.Helper()
	ours, theirs = stream(tb, unix.SOCK_SEQPACKET)
	for _, fd := range []int{ours, theirs} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
			tb.Fatal(err)
		}
	}
	return ours, theirs
}

func TestSendTo(t *testing.T) {
	table := mapAll(t, at(0, page), at(page, page))
	memory := pattern(2 * page)
	fill(t, table, 0, memory)
	ours, theirs := messageSockets(t)
	for _, c := range []struct {
		name   string
		ranges []uint32 // lengths, from before a boundary on
		want   int
	}{
		{"one range", []uint32{100}, 100},
		{"across regions", []uint32{1, 0, 20, 79}, 100},
		{"empty ranges", []uint32{0, 0}, 0},
		{"no ranges", nil, 0},
	} {
		var b Buffers
		addr := uint64(page - 10)
		for _, n := range c.ranges {
			b.Append(table, addr, n)
			addr += uint64(n)
		}
		if err := b.SendTo(ours, 0, b.Len()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := make([]byte, 200)
		var in Buffers
		in.AppendPrivate(got)
		n, message, err := in.ReceiveFrom(theirs, 0, 1)
		if n != c.want || !message || err != nil || !bytes.Equal(got[:n], memory[page-10:page-10+n]) {
			t.Errorf("%s: %d bytes, %t, %v; or others", c.name, n, message, err)
		}
	}
}

func TestSendToFails(t *testing.T) {
	table := mapAll(t, at(0, page))
	ours, theirs := messageSockets(t)
	var b Buffers
	for range 1025 {
		b.Append(table, 0, 1)
	}
	if err := b.SendTo(ours, 0, 1025); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("1025 ranges: %v", err)
	}
	if err := b.SendTo(ours, 0, 1024); err != nil {
		t.Errorf("1024 ranges: %v", err)
	}
	for full := false; !full; {
		switch err := b.SendTo(ours, 0, 1024); err {
		case nil:
		case unix.EAGAIN:
			full = true
		default:
			t.Fatal(err)
		}
	}
	unix.Shutdown(theirs, unix.SHUT_RDWR)
	var sys *os.SyscallError
	if err := b.SendTo(ours, 0, 0); !errors.Is(err, unix.EPIPE) || !errors.As(err, &sys) || sys.Syscall != "sendmsg" {
		t.Errorf("nobody reads: %v", err)
	}
}

// A look at a message leaves it, and moves on behind SO_PEEK_OFF.
func TestPeekFrom(t *testing.T) {
	table := mapAll(t, at(0, page))
	ours, theirs := messageSockets(t)
	var b Buffers
	peek := func(to, want int, wantMessage bool, wantErr error) {
		t.Helper()
		if n, message, err := b.PeekFrom(ours, 0, to); n != want || message != wantMessage || err != wantErr {
			t.Errorf("%d bytes, %t, %v; want %d, %t, %v", n, message, err, want, wantMessage, wantErr)
		}
	}
	peek(0, 0, false, unix.EAGAIN)
	for _, p := range [][]byte{nil, pattern(100), []byte("next")} {
		if err := unix.Send(theirs, p, 0); err != nil {
			t.Fatal(err)
		}
	}
	unix.Shutdown(theirs, unix.SHUT_WR)
	peek(0, 0, true, nil)
	peek(0, 0, true, nil)
	b.ReceiveFrom(ours, 0, 0)
	peek(0, 100, true, nil)
	unix.SetsockoptInt(ours, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0)
	got := make([]byte, 30)
	for at := 0; at < 90; at += 30 {
		b.Reset()
		b.Append(table, uint64(at), 30)
		peek(1, 100-at, true, nil)
		b.CopyOut(0, 1, got)
		if !bytes.Equal(got, pattern(100)[at:at+30]) {
			t.Errorf("other bytes from %d on", at)
		}
	}
	unix.SetsockoptInt(ours, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1)
	peek(0, 100, true, nil)
	if n, message, err := b.ReceiveFrom(ours, 0, 0); n != 100 || !message || err != nil {
		t.Errorf("%d bytes, %t, %v; want the whole message", n, message, err)
	}
	peek(0, 4, true, nil)
	b.ReceiveFrom(ours, 0, 0)
	peek(0, 0, false, nil) // end of file
}

// A look brings no descriptors in, either.
func TestPeekFromTakesNoDescriptors(t *testing.T) {
	ours, theirs := messageSockets(t)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	if err := unix.Sendmsg(theirs, []byte("take this"), unix.UnixRights(pipe[1], pipe[1]), nil, 0); err != nil {
		t.Fatal(err)
	}
	unix.Close(pipe[1])
	var b Buffers
	for range 2 {
		if n, message, err := b.PeekFrom(ours, 0, 0); n != 9 || !message || err != nil {
			t.Errorf("%d bytes, %t, %v", n, message, err)
		}
	}
	b.ReceiveFrom(ours, 0, 0)
	if n, err := unix.Read(pipe[0], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the pipe reads %d, %v; want end of file, for nobody has its other end", n, err)
	}
}

// Guest memory and the process's own leave in one message, and take one.
func TestAppendPrivate(t *testing.T) {
	table := mapAll(t, at(0, page))
	fill(t, table, 0, pattern(page))
	ours, theirs := messageSockets(t)
	var b Buffers
	b.AppendPrivate([]byte("private, "))
	b.AppendPrivate(nil)
	b.Append(table, 50, 20)
	b.AppendPrivate([]byte(", private"))
	if b.Len() != 3 || b.Bytes(0, 3) != 38 {
		t.Fatalf("%d ranges of %d bytes", b.Len(), b.Bytes(0, b.Len()))
	}
	if err := b.SendTo(ours, 0, b.Len()); err != nil {
		t.Fatal(err)
	}
	first, last := make([]byte, 9), make([]byte, 9)
	b.Reset()
	b.AppendPrivate(first)
	b.Append(table, 1000, 20)
	b.AppendPrivate(last)
	if n, _, err := b.ReceiveFrom(theirs, 0, 3); n != 38 || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	middle := make([]byte, 20)
	b.CopyOut(1, 2, middle)
	if string(first) != "private, " || string(last) != ", private" || !bytes.Equal(middle, pattern(page)[50:70]) {
		t.Errorf("%q, %q, or the middle: other bytes came", first, last)
	}
}

func TestMessagesDoNotAllocate(t *testing.T) {
	table := mapAll(t, at(0, page))
	ours, theirs := messageSockets(t)
	var in, out Buffers
	in.Append(table, 0, 64)
	private := make([]byte, 32)
	turn := func() {
		out.Reset()
		out.Append(table, 1000, 32)
		out.AppendPrivate(private)
		if err := out.SendTo(theirs, 0, 2); err != nil {
			t.Fatal(err)
		}
		if n, message, err := in.PeekFrom(ours, 0, 0); n != 64 || !message || err != nil {
			t.Fatalf("%d bytes, %t, %v", n, message, err)
		}
		if n, message, err := in.ReceiveFrom(ours, 0, 1); n != 64 || !message || err != nil {
			t.Fatalf("%d bytes, %t, %v", n, message, err)
		}
		if _, _, err := in.PeekFrom(ours, 0, 0); err != unix.EAGAIN {
			t.Fatal(err)
		}
	}
	if allocs := testing.AllocsPerRun(100, turn); allocs != 0 {
		t.Errorf("%v allocations a turn", allocs)
	}
}
