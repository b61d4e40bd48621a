package guestmem

import (
	"os"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
)

func TestMain(m *testing.M) { os.Exit(guestmemtest.Main(m)) }

// mapAll maps regions, each from the start of a memfd of its own.
func mapAll(tb testing.TB, regions ...Region) *Table {
	tb.Helper()
	var fds []int
	for _, r := range regions {
		fds = append(fds, guestmemtest.Memfd(tb, int64(r.Offset+r.Size)))
	}
	table, err := Map(regions, fds)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := table.Close(); err != nil {
			tb.Error(err)
		}
	})
	return table
}

// at returns a region at gpa whose user address is far away.
func at(gpa, size uint64) Region {
	return Region{GuestAddr: gpa, Size: size, UserAddr: gpa + 1<<52}
}

// fill writes p at gpa through the table.
func fill(tb testing.TB, table *Table, gpa uint64, p []byte) {
	tb.Helper()
	var b Buffers
	if err := b.Append(table, gpa, uint32(len(p))); err != nil {
		tb.Fatal(err)
	}
	b.CopyIn(0, b.Len(), p)
}

// pattern returns n bytes that differ from their neighbours.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}
