package csm_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// newMessageSocket is newHostSocket for messages.
func newMessageSocket(tb testing.TB, sndbuf int) *hostSocket {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatal("socketpair:", err)
	}
	s := &hostSocket{ours: fds[0], program: fds[1]}
	tb.Cleanup(func() {
		unix.Close(s.ours)
		s.closeProgram()
	})
	if err := unix.SetsockoptInt(s.ours, unix.SOL_SOCKET, unix.SO_SNDBUF, sndbuf); err != nil {
		tb.Fatal("setsockopt:", err)
	}
	if err := unix.SetsockoptInt(s.program, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		tb.Fatal("setsockopt:", err)
	}
	return s
}

// takeMessage reads a message; ok is false when none is there.
func (s *hostSocket) takeMessage(tb testing.TB, buf []byte) (p []byte, ok bool) {
	tb.Helper()
	var control [64]byte
	for {
		n, controlN, _, _, err := unix.Recvmsg(s.program, buf, control[:], 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil, false
		case err != nil || controlN == 0:
			tb.Fatalf("recvmsg: %d bytes, %d of control, %v", n, controlN, err)
		}
		return buf[:n], true
	}
}

// messageTrial drives a MessageBuf with a list of what was appended beside it.
type messageTrial struct {
	tb    testing.TB
	s     script
	guest *guestMemory
	host  *hostSocket
	pool  csm.Pool
	buf   csm.MessageBuf

	whole   [][]byte // that wait
	sent    [][]byte // that left and were not read
	begun   []byte
	isBegun bool
	read    []byte
}

func (tr *messageTrial) run() {
	tr.tb.Helper()
	for len(tr.s.b) > 0 {
		switch tr.s.pick(16) {
		case 0, 1, 2, 3, 4, 5, 6:
			tr.append()
		case 7, 8, 9:
			tr.write()
		case 10, 11, 12, 13:
			tr.receive()
		case 14:
			if tr.s.pick(4) == 0 {
				tr.dropBegun()
			}
		case 15:
			if tr.s.pick(16) == 0 {
				tr.release()
			}
		}
		tr.check()
	}
	for len(tr.whole) > 0 {
		tr.write()
		tr.receive()
		tr.check()
	}
	tr.dropBegun()
	tr.check()
	for len(tr.sent) > 0 {
		tr.receive()
	}
	if held := tr.pool.Held(); held != 0 {
		tr.tb.Fatalf("%d bytes held for nothing", held)
	}
}

func (tr *messageTrial) append() {
	size := []int{0, 1, 100, csm.ChunkSize - 8, csm.ChunkSize - 4, csm.ChunkSize, csm.MaxPayload}[tr.s.pick(7)] + tr.s.pick(4)
	last := tr.s.pick(2) == 0
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i*7 + len(tr.whole) + len(tr.begun))
	}
	from, to := tr.guest.put(uint64(tr.s.pick(1000)), p, 1+tr.s.pick(40000))
	tr.buf.AppendFrom(&tr.pool, &tr.guest.bufs, from, to, last)
	tr.begun, tr.isBegun = append(tr.begun, p...), true
	if last {
		tr.whole = append(tr.whole, tr.begun)
		tr.begun, tr.isBegun = nil, false
	}
}

func (tr *messageTrial) write() {
	tr.tb.Helper()
	n, err := tr.buf.WriteTo(&tr.pool, tr.host.ours)
	if err != nil && err != unix.EAGAIN {
		tr.tb.Fatal("write:", err)
	}
	all, _ := tr.buf.Messages()
	left := tr.whole[:len(tr.whole)-all]
	tr.whole, tr.sent = tr.whole[len(left):], append(tr.sent, left...)
	for _, p := range left {
		n -= len(p)
	}
	if n != 0 || (err == nil) != (all == 0) {
		tr.tb.Fatalf("%d messages left, %d bytes more than these have, error %v with %d left", len(left), n, err, all)
	}
}

func (tr *messageTrial) receive() {
	tr.tb.Helper()
	p, ok := tr.host.takeMessage(tr.tb, tr.read)
	if ok != (len(tr.sent) > 0) {
		tr.tb.Fatalf("a message is there: %t, and %d should be", ok, len(tr.sent))
	}
	if !ok {
		return
	}
	if !bytes.Equal(p, tr.sent[0]) {
		tr.tb.Fatalf("the program reads a message of %d bytes, not that of %d", len(p), len(tr.sent[0]))
	}
	tr.sent = tr.sent[1:]
}

func (tr *messageTrial) dropBegun() {
	tr.tb.Helper()
	if lost := tr.buf.DropBegun(&tr.pool); lost != len(tr.begun) {
		tr.tb.Fatalf("%d bytes of a message dropped, want %d", lost, len(tr.begun))
	}
	tr.begun, tr.isBegun = nil, false
}

func (tr *messageTrial) release() {
	tr.tb.Helper()
	want := len(tr.begun)
	for _, p := range tr.whole {
		want += len(p)
	}
	if lost := tr.buf.Release(&tr.pool); lost != want {
		tr.tb.Fatalf("%d bytes given up, want %d", lost, want)
	}
	tr.whole, tr.begun, tr.isBegun = nil, nil, false
}

// check holds the accounts against what waits.
func (tr *messageTrial) check() {
	tr.tb.Helper()
	wantEmpties, bytes := 0, 0
	for _, p := range tr.whole {
		bytes += len(p)
		if len(p) == 0 {
			wantEmpties++
		}
	}
	all, empties := tr.buf.Messages()
	if all != len(tr.whole) || empties != wantEmpties || tr.buf.Begun() != tr.isBegun {
		tr.tb.Fatalf("%d messages, %d empty, one begun %t; want %d, %d, %t", all, empties, tr.buf.Begun(), len(tr.whole), wantEmpties, tr.isBegun)
	}
	begun, held := tr.pool.Begun(), tr.pool.Held()
	if tr.isBegun && (begun < int64(len(tr.begun)) || begun > int64(len(tr.begun)+2*csm.ChunkSize)) || !tr.isBegun && begun != 0 {
		tr.tb.Fatalf("%d bytes of memory for a message of which %d have come", begun, len(tr.begun))
	}
	// A length is never cut, so that a chunk may end 3 bytes early.
	most := (bytes+len(tr.begun)+4*(len(tr.whole)+1))*(csm.ChunkSize+4)/csm.ChunkSize + 3*csm.ChunkSize
	if held < int64(bytes+len(tr.begun)) || held > int64(most) || held%csm.ChunkSize != 0 {
		tr.tb.Fatalf("%d bytes of memory for %d bytes in %d messages", held, bytes, len(tr.whole))
	}
	if len(tr.whole) == 0 && !tr.isBegun && held != 0 {
		tr.tb.Fatalf("%d bytes of memory for nothing", held)
	}
}

// TestMessageBufAgainstList appends, writes and drops at random.
func TestMessageBufAgainstList(t *testing.T) {
	guest, read := newGuestMemory(t), make([]byte, 8<<20)
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 4))
		tr := messageTrial{tb: t, s: script{random(r, 900)}, guest: guest, host: newMessageSocket(t, 4<<20), read: read}
		tr.run()
	}
}

func FuzzMessageBuf(f *testing.F) {
	r := rand.New(rand.NewPCG(9, 9))
	for range 4 {
		f.Add(random(r, 200))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tr := messageTrial{tb: t, s: script{data[:min(len(data), 400)]}, guest: newGuestMemory(t), host: newMessageSocket(t, 4<<20), read: make([]byte, 8<<20)}
		tr.run()
	})
}

// A chunk that held nothing but the beginning of a message goes with the last of
// the whole ones.
func TestMessageBufKeepsNoEmptyChunk(t *testing.T) {
	guest, host := newGuestMemory(t), newMessageSocket(t, 1<<20)
	var pool csm.Pool
	var buf csm.MessageBuf
	from, to := guest.put(0, make([]byte, csm.ChunkSize-4), 40000) // with its length a chunk
	buf.AppendFrom(&pool, &guest.bufs, from, to, true)
	from, to = guest.put(0, make([]byte, 10), 10)
	buf.AppendFrom(&pool, &guest.bufs, from, to, false)
	if held := pool.Held(); held != 2*csm.ChunkSize {
		t.Fatalf("%d bytes held: this test tests nothing", held)
	}
	buf.DropBegun(&pool)
	if _, err := buf.WriteTo(&pool, host.ours); err != nil || pool.Held() != 0 {
		t.Fatalf("%v, %d bytes held", err, pool.Held())
	}
}

// A message longer than its socket takes is the owner's to give up.
func TestMessageBufTooLongForItsSocket(t *testing.T) {
	guest, host := newGuestMemory(t), newMessageSocket(t, 4096)
	var pool csm.Pool
	var buf csm.MessageBuf
	for _, size := range []int{10, 60000} {
		from, to := guest.put(0, make([]byte, size), 60000)
		buf.AppendFrom(&pool, &guest.bufs, from, to, true)
	}
	n, err := buf.WriteTo(&pool, host.ours)
	if n != 10 || !errors.Is(err, unix.EMSGSIZE) {
		t.Fatalf("%d bytes left, %v; want 10 and EMSGSIZE", n, err)
	}
	if lost := buf.Release(&pool); lost != 60000 || pool.Held() != 0 {
		t.Fatalf("%d bytes given up, %d held", lost, pool.Held())
	}
}
