package guestmem

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
)

func TestAppendSplitsAtRegions(t *testing.T) {
	table := mapAll(t, at(0, page), at(page, page), at(2*page, page), at(4*page, page))
	for _, c := range []struct {
		name string
		gpa  uint64
		n    uint32
		want []uint64 // lengths of the ranges
		err  error
	}{
		{"nothing", 0, 0, nil, nil},
		{"nothing, nowhere", 3 * page, 0, nil, nil},
		{"one region", 1, 5, []uint64{5}, nil},
		{"up to the end", 10, page - 10, []uint64{page - 10}, nil},
		{"two regions", page - 1, 3, []uint64{1, 2}, nil},
		{"three regions", page - 1, page + 2, []uint64{1, page, 1}, nil},
		{"into a hole", 2 * page, page + 1, nil, ErrOutOfRange},
		{"from a hole", 4*page - 1, 2, nil, ErrOutOfRange},
		{"longer than memory", 0, math.MaxUint32, nil, ErrOutOfRange},
		{"wraps", math.MaxUint64, 2, nil, ErrOutOfRange},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b Buffers
			b.Append(table, 4*page, 7)
			if err := b.Append(table, c.gpa, c.n); !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if got, want := lengths(&b), append([]uint64{7}, c.want...); !slices.Equal(got, want) {
				t.Errorf("ranges %v, want %v", got, want)
			}
		})
	}
}

func lengths(b *Buffers) (n []uint64) {
	for _, v := range b.iov {
		n = append(n, v.Len)
	}
	return n
}

// TestOperationsAgainstModel holds random operations on ranges against the same
// on byte slices.
func TestOperationsAgainstModel(t *testing.T) {
	table := mapAll(t, at(0, page), at(page, page))
	memory := pattern(2 * page)
	fill(t, table, 0, memory)
	rng := rand.New(rand.NewPCG(1, 2))
	var b, other Buffers
	for range 2000 {
		b.Reset()
		var model [][]byte
		for range 1 + rng.IntN(6) {
			gpa, n := rng.Uint64N(2*page-64), rng.Uint32N(64)
			if err := b.Append(table, gpa, n); err != nil {
				t.Fatal(err)
			}
			model = append(model, memory[gpa:][:n])
		}
		want := slices.Concat(model...)
		if got := b.Bytes(0, b.Len()); got != uint64(len(want)) {
			t.Fatalf("%d bytes, want %d", got, len(want))
		}
		skip := rng.IntN(len(want) + 8)
		b.Skip(0, b.Len(), uint64(skip))
		want = want[min(skip, len(want)):]
		check(t, "Skip", &b, 0, b.Len(), want)

		head := rng.IntN(len(want) + 8)
		other.Reset()
		other.AppendHead(&b, 0, b.Len(), uint64(head))
		check(t, "AppendHead", &other, 0, other.Len(), want[:min(head, len(want))])

		limit := rng.IntN(len(want) + 8)
		end := b.Limit(0, b.Len(), uint64(limit))
		want = want[:min(limit, len(want))]
		check(t, "Limit", &b, 0, end, want)
	}
}

func check(t *testing.T, what string, b *Buffers, from, to int, want []byte) {
	t.Helper()
	got := make([]byte, len(want)+16)
	if n := b.CopyOut(from, to, got); n != len(want) || !bytes.Equal(got[:n], want) {
		t.Fatalf("%s: %d bytes %x, want %d bytes %x", what, n, got[:n], len(want), want)
	}
}

func TestSubranges(t *testing.T) {
	table := mapAll(t, at(0, page))
	fill(t, table, 0, []byte("abcdefghij"))
	var b Buffers
	for i := range uint64(5) {
		b.Append(table, 2*i, 2) // ab cd ef gh ij
	}
	if got := b.Bytes(1, 3); got != 4 {
		t.Errorf("Bytes: %d", got)
	}
	b.Skip(1, 3, 3)
	check(t, "Skip", &b, 0, 5, []byte("abfghij"))
	b.Skip(1, 2, 100)
	check(t, "Skip of nothing", &b, 0, 5, []byte("abfghij"))
	end := b.Limit(2, 5, 2)
	if end != 4 {
		t.Errorf("Limit: end %d", end)
	}
	check(t, "Limit", &b, 2, end, []byte("fg"))
	b.Truncate(end)
	b.AppendHead(&b, 0, 3, 3)
	check(t, "AppendHead of its own", &b, 0, b.Len(), []byte("abfgabf"))
	n := b.CopyIn(0, 1, []byte("XYZ"))
	if n != 2 {
		t.Errorf("CopyIn: %d", n)
	}
	check(t, "CopyIn", &b, 0, 1, []byte("XY"))
	if end := b.Limit(1, 4, 0); b.Bytes(1, end) != 0 {
		t.Errorf("Limit to nothing leaves %d bytes", b.Bytes(1, end))
	}
}

// stream returns a connected pair of non-blocking sockets.
func stream(tb testing.TB, kind int) (ours, theirs int) {
	tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(pair[0]) })
	tb.Cleanup(func() { unix.Close(pair[1]) })
	return pair[0], pair[1]
}

func TestVectoredIO(t *testing.T) {
	table := mapAll(t, at(0, page), at(page, page))
	memory := pattern(2 * page)
	fill(t, table, 0, memory)
	ours, theirs := stream(t, unix.SOCK_STREAM)

	var b Buffers
	b.Append(table, 0, 10)
	b.Append(table, page-5, 10) // two ranges
	b.Append(table, 100, 5)
	b.Skip(0, b.Len(), 12) // one empty range, one cut
	n, err := b.WriteTo(ours, 0, b.Len())
	if n != 13 || err != nil {
		t.Fatalf("WriteTo: %d, %v", n, err)
	}
	got := make([]byte, 32)
	n, err = unix.Read(theirs, got)
	want := slices.Concat(memory[page-3:page+5], memory[100:105])
	if err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("sent %x, want %x (%v)", got[:n], want, err)
	}

	if _, err := unix.Write(theirs, []byte("0123456789abcdef")); err != nil {
		t.Fatal(err)
	}
	if n, _, err = b.ReadFrom(ours, 1, 3); n != 8 || err != nil {
		t.Fatalf("ReadFrom: %d, %v", n, err)
	}
	check(t, "ReadFrom", &b, 0, b.Len(), append([]byte("01234567"), memory[100:105]...))
	if n, _, err = b.ReadFrom(ours, 0, b.Len()); n != 8 || err != nil {
		t.Fatalf("second ReadFrom: %d, %v", n, err)
	}
	if n, _, err = b.ReadFrom(ours, 0, b.Len()); n != 0 || err != unix.EAGAIN {
		t.Errorf("ReadFrom of an empty socket: %d, %v", n, err)
	}
	unix.Shutdown(theirs, unix.SHUT_WR)
	if n, _, err = b.ReadFrom(ours, 0, b.Len()); n != 0 || err != nil {
		t.Errorf("ReadFrom at end of file: %d, %v", n, err)
	}
}

func TestIOWithoutBytesAsksNobody(t *testing.T) {
	table := mapAll(t, at(0, page))
	var b Buffers
	b.Append(table, 0, 3)
	b.Skip(0, 1, 3)
	for _, to := range []int{0, 1} {
		if n, err := b.WriteTo(-1, 0, to); n != 0 || err != nil {
			t.Errorf("WriteTo: %d, %v", n, err)
		}
		if n, _, err := b.ReadFrom(-1, 0, to); n != 0 || err != nil {
			t.Errorf("ReadFrom: %d, %v", n, err)
		}
	}
}

func TestIOBeyondOneVector(t *testing.T) {
	table := mapAll(t, at(0, page))
	memory := pattern(page)
	fill(t, table, 0, memory)
	ours, theirs := stream(t, unix.SOCK_STREAM)
	var b Buffers
	for i := range uint64(3000) {
		b.Append(table, i, 1)
	}
	b.Skip(0, b.Len(), 100)
	for sent := 0; sent < 2900; {
		n, err := b.WriteTo(ours, 0, b.Len())
		if err != nil || n > maxVector {
			t.Fatalf("WriteTo: %d, %v", n, err)
		}
		b.Skip(0, b.Len(), uint64(n))
		sent += n
	}
	got := make([]byte, 4096)
	n, err := unix.Read(theirs, got)
	if err != nil || !bytes.Equal(got[:n], memory[100:3000]) {
		t.Errorf("%d bytes arrived (%v), or others", n, err)
	}
}

func TestIOErrors(t *testing.T) {
	fd := guestmemtest.Memfd(t, 2*page)
	table, err := Map([]Region{at(0, 2*page)}, []int{fd})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	var b Buffers
	b.Append(table, page, 100)

	t.Run("full", func(t *testing.T) {
		ours, _ := stream(t, unix.SOCK_STREAM)
		for {
			n, err := b.WriteTo(ours, 0, 1)
			if err == unix.EAGAIN {
				break
			}
			if err != nil || n == 0 {
				t.Fatalf("WriteTo: %d, %v", n, err)
			}
		}
	})
	t.Run("peer gone", func(t *testing.T) {
		ours, theirs := stream(t, unix.SOCK_STREAM)
		unix.Shutdown(theirs, unix.SHUT_RDWR)
		_, err := b.WriteTo(ours, 0, 1)
		var sys *os.SyscallError
		if !errors.Is(err, unix.EPIPE) || !errors.As(err, &sys) || sys.Syscall != "sendmsg" {
			t.Errorf("WriteTo: %v", err)
		}
	})
	t.Run("message too long", func(t *testing.T) {
		ours, _ := stream(t, unix.SOCK_SEQPACKET)
		var long Buffers
		for range 1000 {
			long.Append(table, 0, page)
		}
		if _, err := long.WriteTo(ours, 0, long.Len()); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("WriteTo: %v", err)
		}
	})
	t.Run("memory gone", func(t *testing.T) {
		if err := unix.Ftruncate(fd, page); err != nil {
			t.Fatal(err)
		}
		ours, theirs := stream(t, unix.SOCK_STREAM)
		if _, err := b.WriteTo(ours, 0, 1); !errors.Is(err, unix.EFAULT) {
			t.Errorf("WriteTo: %v", err)
		}
		unix.Write(theirs, []byte("x"))
		if _, _, err := b.ReadFrom(ours, 0, 1); !errors.Is(err, unix.EFAULT) {
			t.Errorf("ReadFrom: %v", err)
		}
	})
}

func TestDataPathDoesNotAllocate(t *testing.T) {
	table := mapAll(t, at(0, page), at(page, page))
	ours, theirs := stream(t, unix.SOCK_STREAM)
	var b, head Buffers
	private := make([]byte, 64)
	turn := func() {
		b.Reset()
		head.Reset()
		b.Append(table, 0, 44)
		b.Append(table, page-32, 64)
		b.CopyOut(0, b.Len(), private)
		b.Skip(0, b.Len(), 44)
		head.AppendHead(&b, 0, b.Len(), 64)
		if n, err := head.WriteTo(ours, 0, head.Len()); n != 64 || err != nil {
			t.Fatalf("WriteTo: %d, %v", n, err)
		}
		if n, _, err := b.ReadFrom(theirs, 0, b.Len()); n != 64 || err != nil {
			t.Fatalf("ReadFrom: %d, %v", n, err)
		}
		if _, _, err := b.ReadFrom(theirs, 0, b.Len()); err != unix.EAGAIN {
			t.Fatalf("ReadFrom of an empty socket: %v", err)
		}
		b.CopyIn(0, b.Len(), private)
	}
	if allocs := testing.AllocsPerRun(100, turn); allocs != 0 {
		t.Errorf("%v allocations a turn", allocs)
	}
}

func BenchmarkAppend(b *testing.B) {
	table := mapAll(b, at(0, 1<<20), at(1<<20, 1<<20))
	for _, c := range []struct {
		name string
		gpa  uint64
	}{{"one region", 0x1000}, {"across regions", 1<<20 - 64}} {
		b.Run(c.name, func(b *testing.B) {
			var bufs Buffers
			b.ReportAllocs()
			for b.Loop() {
				bufs.Reset()
				bufs.Append(table, c.gpa, 4096)
			}
		})
	}
}

func BenchmarkIndexAccess(b *testing.B) {
	table := mapAll(b, at(0, page))
	s, err := table.Span(0, 64, 16)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("LoadAcquire16", func(b *testing.B) {
		for b.Loop() {
			s.LoadAcquire16(2)
		}
	})
	b.Run("StoreRelease16", func(b *testing.B) {
		for b.Loop() {
			s.StoreRelease16(2, 7)
		}
	})
	b.Run("Fence", func(b *testing.B) {
		for b.Loop() {
			Fence()
		}
	})
}

func BenchmarkSocket(b *testing.B) {
	table := mapAll(b, at(0, 1<<20))
	for _, size := range []uint32{64, 4096, 65536} {
		b.Run(byteSize(size), func(b *testing.B) {
			ours, theirs := stream(b, unix.SOCK_STREAM)
			var out, in Buffers
			out.Append(table, 0, size)
			in.Append(table, 1<<19, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if n, err := out.WriteTo(ours, 0, 1); n != int(size) || err != nil {
					b.Fatalf("WriteTo: %d, %v", n, err)
				}
				if n, _, err := in.ReadFrom(theirs, 0, 1); n != int(size) || err != nil {
					b.Fatalf("ReadFrom: %d, %v", n, err)
				}
			}
		})
	}
}

func byteSize(n uint32) string {
	return map[uint32]string{64: "64B", 4096: "4KiB", 65536: "64KiB"}[n]
}
