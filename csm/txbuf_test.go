package csm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// guestMemory is what a guest's driver puts payload into: two adjacent regions,
// so that ranges across their border are split.
type guestMemory struct {
	tb    testing.TB
	table *guestmem.Table
	size  int
	bufs  guestmem.Buffers
}

const regionSize = 128 << 10

func newGuestMemory(tb testing.TB) *guestMemory {
	tb.Helper()
	fd, err := unix.MemfdCreate("csm-test", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal("memfd_create:", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 2*regionSize); err != nil {
		tb.Fatal("ftruncate:", err)
	}
	table, err := guestmem.Map([]guestmem.Region{
		{GuestAddr: 0, Size: regionSize, UserAddr: 1 << 40},
		{GuestAddr: regionSize, Size: regionSize, UserAddr: 1 << 41, Offset: regionSize},
	}, []int{fd, fd})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := table.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &guestMemory{tb: tb, table: table, size: 2 * regionSize}
}

// put writes p into guest memory at gpa and leaves g.bufs with its ranges, cut
// into pieces of at most piece bytes.
func (g *guestMemory) put(gpa uint64, p []byte, piece int) (from, to int) {
	g.bufs.Reset()
	for at := 0; at < len(p); at += piece {
		n := min(piece, len(p)-at)
		if err := g.bufs.Append(g.table, gpa+uint64(at), uint32(n)); err != nil {
			g.tb.Fatal(err)
		}
	}
	if n := g.bufs.CopyIn(0, g.bufs.Len(), p); n != len(p) {
		g.tb.Fatalf("%d of %d bytes fit in guest memory", n, len(p))
	}
	return 0, g.bufs.Len()
}

// hostSocket is a connected pair: ours does not block, the program's end takes
// what it is told to take.
type hostSocket struct{ ours, program int }

func newHostSocket(tb testing.TB, sndbuf int) *hostSocket {
	tb.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatal("socketpair:", err)
	}
	s := &hostSocket{ours: fds[0], program: fds[1]}
	tb.Cleanup(func() {
		unix.Close(s.ours)
		s.closeProgram()
	})
	if sndbuf > 0 {
		if err := unix.SetsockoptInt(s.ours, unix.SOL_SOCKET, unix.SO_SNDBUF, sndbuf); err != nil {
			tb.Fatal("setsockopt:", err)
		}
	}
	return s
}

func (s *hostSocket) closeProgram() {
	if s.program >= 0 {
		unix.Close(s.program)
		s.program = -1
	}
}

// take reads up to n bytes, as many as are there.
func (s *hostSocket) take(tb testing.TB, n int) []byte {
	tb.Helper()
	p := make([]byte, n)
	got := 0
	for got < n {
		k, err := unix.Read(s.program, p[got:])
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN || k == 0 {
			break
		}
		if err != nil {
			tb.Fatal("read:", err)
		}
		got += k
	}
	return p[:got]
}

func random(r *rand.Rand, n int) []byte {
	p := make([]byte, 0, n+8)
	for len(p) < n {
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
	}
	return p[:n]
}

// TestTxBufAgainstBuffer appends and writes at random and holds every byte, the
// length and the memory against a bytes.Buffer.
func TestTxBufAgainstBuffer(t *testing.T) {
	guest := newGuestMemory(t)
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 26))
		host := newHostSocket(t, 4096)
		var (
			pool csm.Pool
			buf  csm.TxBuf
			want bytes.Buffer // what was appended and not yet read by the program
			left int          // of it, what waits in buf
		)
		for range 300 {
			switch r.IntN(3) {
			case 0:
				p := random(r, r.IntN([]int{2, 100, csm.ChunkSize + 2, csm.MaxPayload + 1}[r.IntN(4)]))
				from, to := guest.put(uint64(r.IntN(guest.size-csm.MaxPayload)), p, 1+r.IntN(40000))
				buf.AppendFrom(&pool, &guest.bufs, from, to)
				want.Write(p)
				left += len(p)
			case 1:
				n, err := buf.WriteTo(&pool, host.ours)
				left -= n
				if err != nil && err != unix.EAGAIN {
					t.Fatal("write:", err)
				}
				if (err == nil) != (left == 0) {
					t.Fatalf("error %v with %d bytes left", err, left)
				}
			case 2:
				got := host.take(t, r.IntN(3*csm.ChunkSize))
				if !bytes.Equal(got, want.Next(len(got))) {
					t.Fatalf("seed %d: the program reads other bytes than were appended", seed)
				}
			}
			checkTxBuf(t, &buf, &pool, left)
		}
		for left > 0 {
			n, err := buf.WriteTo(&pool, host.ours)
			if left -= n; err != nil && err != unix.EAGAIN {
				t.Fatal("write:", err)
			}
			checkTxBuf(t, &buf, &pool, left)
			got := host.take(t, 1<<20)
			if !bytes.Equal(got, want.Next(len(got))) {
				t.Fatalf("seed %d: the program reads other bytes than were appended", seed)
			}
			if n == 0 && len(got) == 0 {
				t.Fatal("no progress")
			}
		}
		if got := host.take(t, 1<<20); !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("seed %d: the last bytes differ", seed)
		}
	}
}

// checkTxBuf holds the accounts against left bytes that wait: whole chunks, at
// most two of them partly used.
func checkTxBuf(tb testing.TB, buf *csm.TxBuf, pool *csm.Pool, left int) {
	tb.Helper()
	if buf.Len() != left {
		tb.Fatalf("Len %d, want %d", buf.Len(), left)
	}
	held := int(pool.Held())
	if held%csm.ChunkSize != 0 || held < left || held > left+2*csm.ChunkSize || left == 0 && held != 0 {
		tb.Fatalf("%d bytes of memory for %d bytes that wait", held, left)
	}
	if pool.Spare() < 0 || pool.Spare() > csm.MaxSpare {
		tb.Fatalf("%d spare bytes", pool.Spare())
	}
}

// Appending uses the ranges up: they are leases of a chain that goes back.
func TestAppendFromTakesSubrangeInOrder(t *testing.T) {
	guest := newGuestMemory(t)
	host := newHostSocket(t, 0)
	p := random(rand.New(rand.NewPCG(3, 3)), 50000)
	from, to := guest.put(regionSize-25000, p, 10000) // five pieces, the third in two regions
	if to != 6 {
		t.Fatalf("%d ranges, want 6: the memory must be split", to)
	}
	var pool csm.Pool
	var buf csm.TxBuf
	buf.AppendFrom(&pool, &guest.bufs, from+1, to-1)
	if left := guest.bufs.Bytes(from, to); left != 20000 {
		t.Errorf("%d bytes in the ranges that were not appended, want 20000", left)
	}
	if n, err := buf.WriteTo(&pool, host.ours); n != 30000 || err != nil {
		t.Fatalf("wrote %d, %v, want 30000", n, err)
	}
	if !bytes.Equal(host.take(t, 50000), p[10000:40000]) {
		t.Error("the program reads other bytes")
	}
}

func TestAppendNothingTakesNoMemory(t *testing.T) {
	guest := newGuestMemory(t)
	var pool csm.Pool
	var buf csm.TxBuf
	from, to := guest.put(0, nil, 1)
	buf.AppendFrom(&pool, &guest.bufs, from, to)
	guest.put(0, []byte{1, 2}, 1)
	guest.bufs.Skip(0, 2, 2) // ranges that are there, but empty
	buf.AppendFrom(&pool, &guest.bufs, 0, 2)
	if buf.Len() != 0 || pool.Held() != 0 {
		t.Fatalf("%d bytes wait in %d bytes of memory", buf.Len(), pool.Held())
	}
	if n, err := buf.WriteTo(&pool, -1); n != 0 || err != nil {
		t.Fatalf("writing nothing: %d, %v", n, err)
	}
}

// A payload that fills its chunks to the last byte takes no more of them.
func TestChunkAccounting(t *testing.T) {
	guest := newGuestMemory(t)
	for _, c := range []struct{ bytes, chunks int }{
		{1, 1}, {csm.ChunkSize - 1, 1}, {csm.ChunkSize, 1}, {csm.ChunkSize + 1, 2},
		{2 * csm.ChunkSize, 2}, {csm.MaxPayload, 4},
	} {
		var pool csm.Pool
		var buf csm.TxBuf
		from, to := guest.put(0, make([]byte, c.bytes), c.bytes)
		buf.AppendFrom(&pool, &guest.bufs, from, to)
		if got := pool.Held(); got != int64(c.chunks*csm.ChunkSize) {
			t.Errorf("%d bytes hold %d, want %d chunks", c.bytes, got, c.chunks)
		}
		if lost := buf.Release(&pool); lost != c.bytes || buf.Len() != 0 || pool.Held() != 0 {
			t.Errorf("released %d of %d, %d wait, %d held", lost, c.bytes, buf.Len(), pool.Held())
		}
		if lost := buf.Release(&pool); lost != 0 {
			t.Errorf("released %d twice", lost)
		}
	}
}

// A buffer that was given up is empty, and as good as new.
func TestReleasedTxBufIsReusable(t *testing.T) {
	guest := newGuestMemory(t)
	host := newHostSocket(t, 0)
	var pool csm.Pool
	var buf csm.TxBuf
	r := rand.New(rand.NewPCG(9, 9))
	from, to := guest.put(0, random(r, 40000), 40000)
	buf.AppendFrom(&pool, &guest.bufs, from, to)
	buf.Release(&pool)
	p := random(r, 40000)
	from, to = guest.put(0, p, 40000)
	buf.AppendFrom(&pool, &guest.bufs, from, to)
	if n, err := buf.WriteTo(&pool, host.ours); n != len(p) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	if !bytes.Equal(host.take(t, 50000), p) {
		t.Error("the program reads bytes of the past")
	}
	if pool.Held() != 0 {
		t.Errorf("%d bytes held", pool.Held())
	}
}

// The memory of a great stall does not stay for ever.
func TestPoolSpareIsBounded(t *testing.T) {
	guest := newGuestMemory(t)
	var pool csm.Pool
	bufs := make([]csm.TxBuf, 2*csm.MaxSpare/csm.MaxPayload)
	zero := make([]byte, csm.MaxPayload)
	for i := range bufs {
		from, to := guest.put(0, zero, len(zero))
		bufs[i].AppendFrom(&pool, &guest.bufs, from, to)
	}
	if want := int64(2 * csm.MaxSpare); pool.Held() != want || pool.Spare() != 0 {
		t.Fatalf("held %d, spare %d, want %d, 0", pool.Held(), pool.Spare(), want)
	}
	for i := range bufs {
		bufs[i].Release(&pool)
	}
	if pool.Held() != 0 || pool.Spare() != csm.MaxSpare {
		t.Fatalf("held %d, spare %d, want 0, %d", pool.Held(), pool.Spare(), csm.MaxSpare)
	}
	from, to := guest.put(0, zero, len(zero))
	bufs[0].AppendFrom(&pool, &guest.bufs, from, to)
	if pool.Spare() != csm.MaxSpare-csm.MaxPayload {
		t.Errorf("spare %d: a chunk that is there must be used", pool.Spare())
	}
	bufs[0].Release(&pool)
}

func TestWriteToReportsWhatLeftBesideTheError(t *testing.T) {
	guest := newGuestMemory(t)
	host := newHostSocket(t, 4096)
	var pool csm.Pool
	var buf csm.TxBuf
	for range 8 {
		from, to := guest.put(0, make([]byte, csm.MaxPayload), csm.MaxPayload)
		buf.AppendFrom(&pool, &guest.bufs, from, to)
	}
	n, err := buf.WriteTo(&pool, host.ours)
	if n == 0 || err != unix.EAGAIN || buf.Len() != 8*csm.MaxPayload-n {
		t.Fatalf("wrote %d, %v, %d left: want a part and EAGAIN", n, err, buf.Len())
	}
	if n, err := buf.WriteTo(&pool, host.ours); n != 0 || err != unix.EAGAIN {
		t.Fatalf("wrote %d, %v to a full socket", n, err)
	}
	if got := len(host.take(t, 1<<20)); got != n {
		t.Fatalf("the program reads %d, want %d", got, n)
	}
	host.closeProgram()
	left := buf.Len()
	if n, err := buf.WriteTo(&pool, host.ours); n != 0 || !errors.Is(err, unix.EPIPE) {
		t.Fatalf("wrote %d, %v to a socket whose program has gone, want EPIPE", n, err)
	}
	if lost := buf.Release(&pool); lost != left || pool.Held() != 0 {
		t.Fatalf("released %d of %d, %d held", lost, left, pool.Held())
	}
}

func TestTxBufDoesNotAllocate(t *testing.T) {
	guest := newGuestMemory(t)
	host := newHostSocket(t, 0)
	var pool csm.Pool
	var buf csm.TxBuf
	from, to := guest.put(0, make([]byte, csm.MaxPayload), csm.MaxPayload/3)
	var lease guestmem.Buffers
	waste := make([]byte, csm.MaxPayload)
	stall := func() {
		lease.Reset()
		lease.AppendHead(&guest.bufs, from, to, csm.MaxPayload)
		buf.AppendFrom(&pool, &lease, 0, lease.Len())
		buf.WriteTo(&pool, host.ours)
		for {
			if n, err := unix.Read(host.program, waste); n <= 0 && err != unix.EINTR {
				break
			}
		}
		buf.Release(&pool)
	}
	stall()
	if n := testing.AllocsPerRun(100, stall); n != 0 {
		t.Errorf("%v allocations a stall, want 0", n)
	}
}

// FuzzTxBuf: whatever the order of appends, writes, reads and releases, what the
// program reads is what was appended.
func FuzzTxBuf(f *testing.F) {
	f.Add([]byte{0, 10, 1, 2, 20})
	f.Add([]byte{0, 255, 0, 255, 0, 255, 1, 2, 9, 1, 2, 255, 3, 0, 1, 1, 2, 1})
	f.Add(bytes.Repeat([]byte{0, 255, 1}, 40))
	f.Fuzz(func(t *testing.T, script []byte) {
		guest := newGuestMemory(t)
		host := newHostSocket(t, 4096)
		var pool csm.Pool
		var buf csm.TxBuf
		var sent, want []byte
		in := bytes.NewReader(script[:min(len(script), 400)])
		stamp := byte(0)
		for {
			op, err := in.ReadByte()
			if err == io.EOF {
				break
			}
			arg, _ := in.ReadByte()
			switch op % 4 {
			case 0:
				p := bytes.Repeat([]byte{stamp}, int(arg)*259)
				stamp++
				guest.put(uint64(arg)*700, p, 1+int(arg)*97)
				buf.AppendFrom(&pool, &guest.bufs, 0, guest.bufs.Len())
				want = append(want, p...)
			case 1:
				n, err := buf.WriteTo(&pool, host.ours)
				if err != nil && err != unix.EAGAIN {
					t.Fatal("write:", err)
				}
				sent, want = append(sent, want[:n]...), want[n:]
			case 2:
				got := host.take(t, int(arg)*300)
				if len(got) > len(sent) || !bytes.Equal(got, sent[:len(got)]) {
					t.Fatal("the program reads other bytes than were written")
				}
				sent = sent[len(got):]
			case 3:
				if lost := buf.Release(&pool); lost != len(want) {
					t.Fatalf("released %d, want %d", lost, len(want))
				}
				want = nil
			}
			checkTxBuf(t, &buf, &pool, len(want))
		}
	})
}
