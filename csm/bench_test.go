package csm_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

func TestDataPathDoesNotAllocate(t *testing.T) {
	c := open(262144, 0)
	wire := goldenHeaders[0].wire
	var h csm.Header
	read := uint32(0)
	turn := func() {
		h.Decode(&wire)
		h.Encode(&wire)
		for range 64 {
			c.SendRW(&h, 3732, false, false)
			read += 3732
		}
		tell(&c, 262144, read)
		fromGuest(&c, csm.OpRW, 0, csm.MaxPayload)
		c.Forwarded(csm.MaxPayload)
		c.Next(&h, false)
	}
	turn()
	if n := testing.AllocsPerRun(100, turn); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkHeader(b *testing.B) {
	wire := goldenHeaders[0].wire
	var h csm.Header
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h.Decode(&wire)
		}
	})
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h.Encode(&wire)
		}
	})
}

// BenchmarkTx is a packet from the guest, forwarded, with its credit told.
func BenchmarkTx(b *testing.B) {
	c := open(262144, 0)
	h := csm.Header{Op: csm.OpRW, Len: csm.MaxPayload, BufAlloc: 262144}
	var due csm.Header
	b.SetBytes(csm.MaxPayload)
	b.ReportAllocs()
	for b.Loop() {
		if c.Receive(&h) != csm.Payload {
			b.Fatal("refused")
		}
		c.Forwarded(csm.MaxPayload)
		c.Next(&due, false)
	}
}

// BenchmarkRx is a packet to the guest, and a window's worth of them consumed at
// once.
func BenchmarkRx(b *testing.B) {
	const payload, window = 3732, 70
	c := open(262144, 0)
	var h csm.Header
	read, n := uint32(0), 0
	b.SetBytes(payload)
	b.ReportAllocs()
	for b.Loop() {
		c.SendRW(&h, payload, false, false)
		read += payload
		if n++; n == window {
			tell(&c, 262144, read)
			n = 0
		}
	}
}

// BenchmarkTxBuf is a packet that a host socket did not take, written later.
func BenchmarkTxBuf(b *testing.B) {
	guest := newGuestMemory(b)
	host := newHostSocket(b, 0)
	var pool csm.Pool
	var buf csm.TxBuf
	p := make([]byte, csm.MaxPayload)
	from, to := guest.put(0, p, csm.MaxPayload/2)
	var lease guestmem.Buffers
	b.SetBytes(csm.MaxPayload)
	b.ReportAllocs()
	for b.Loop() {
		lease.Reset()
		lease.AppendHead(&guest.bufs, from, to, csm.MaxPayload)
		buf.AppendFrom(&pool, &lease, 0, lease.Len())
		if _, err := buf.WriteTo(&pool, host.ours); err != nil {
			b.Fatal(err)
		}
		for left := csm.MaxPayload; left > 0; {
			n, err := unix.Read(host.program, p)
			if err != nil && err != unix.EINTR {
				b.Fatal("read:", err)
			}
			left -= max(n, 0)
		}
	}
}
