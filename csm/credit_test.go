package csm_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

const nearWrap = 1<<32 - 70000

// tell passes a CREDIT_UPDATE of the guest.
func tell(c *csm.Conn, bufAlloc, fwdCnt uint32) csm.Reaction {
	return c.Receive(&csm.Header{Op: csm.OpCreditUpdate, BufAlloc: bufAlloc, FwdCnt: fwdCnt})
}

// open returns an Established connection whose guest offers bufAlloc and whose
// counters stand at start in both directions.
func open(bufAlloc uint32, start uint64) csm.Conn {
	c := csm.NewGuestInitiated(&csm.Header{Op: csm.OpRequest, BufAlloc: bufAlloc}, tableBuffer)
	c.StartCounters(start, uint32(start))
	c.HostConnected()
	drain(&c)
	return c
}

func send(c *csm.Conn, sizes ...int) (h csm.Header) {
	for _, n := range sizes {
		c.SendRW(&h, n, false, false)
	}
	return h
}

func checkSpace(t *testing.T, c *csm.Conn, bytes, packets int) {
	t.Helper()
	if b, p := c.RxSpace(); b != bytes || p != packets {
		t.Errorf("space for %d bytes in %d packets, want %d in %d", b, p, bytes, packets)
	}
}

// TestWindowTowardsTheGuest: what a guest says of its buffer, and what may be
// sent then. 1000 + 1000 bytes are in flight, at counters that wrap within them.
func TestWindowTowardsTheGuest(t *testing.T) {
	const start = 1<<32 - 1500
	for _, tt := range []struct {
		name           string
		bufAlloc       uint32
		fwdCnt         uint64
		bytes, packets int
	}{
		{"nothing new", 65536, start, 63536, 62},
		{"part of a packet consumed", 65536, start + 999, 64535, 62},
		{"first packet consumed", 65536, start + 1000, 64536, 63},
		{"all consumed, behind the wrap", 65536, start + 2000, 65536, 64},
		{"ahead of what was sent", 65536, start + 2001, 63536, 62},
		{"half the numbers ahead", 65536, start + 1<<31, 63536, 62},
		{"backward", 65536, start - 1, 63536, 62},
		{"shrunk to what is in flight", 2000, start, 0, 0},
		{"one byte more", 2001, start, 0, 0}, // 2001/1024 = 1 packet, and 2 are out
		{"shrunk below what is in flight", 1999, start, 0, 0},
		{"shrunk to nothing", 0, start, 0, 0},
		{"shrunk to nothing, all consumed", 0, start + 2000, 0, 0},
		{"tiny, all consumed", 1, start + 2000, 1, 1},
		{"below a packet's share", 1023, start + 2000, 1023, 1},
		{"two packets' share", 2048, start + 2000, 2048, 2},
		{"grown beyond belief", 0xffffffff, start, 1<<30 - 2000, 1022},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := open(65536, start)
			send(&c, 1000, 1000)
			tell(&c, tt.bufAlloc, uint32(tt.fwdCnt))
			checkSpace(t, &c, tt.bytes, tt.packets)
			tell(&c, 65536, uint32((start+2000)&0xffffffff)) // the truth puts everything right
			checkSpace(t, &c, 65536, 64)
		})
	}
}

// A guest takes at most one packet for each KiB of its buffer, however small
// they are, and a packet is behind it once its last byte is consumed.
func TestPacketsInFlight(t *testing.T) {
	c := open(4096, nearWrap)
	send(&c, 10, 10, 10, 10)
	checkSpace(t, &c, 0, 0)
	if !c.PacketBound() {
		t.Error("it must be the packets that are short, not the bytes")
	}
	tell(&c, 4096, nearWrap+9)
	checkSpace(t, &c, 0, 0)
	tell(&c, 4096, nearWrap+10)
	checkSpace(t, &c, 4066, 1)
	tell(&c, 4096, nearWrap+39)
	checkSpace(t, &c, 4095, 3)
	tell(&c, 4096, nearWrap+40)
	checkSpace(t, &c, 4096, 4)
	send(&c, 4096)
	checkSpace(t, &c, 0, 0)
	if c.PacketBound() {
		t.Error("it must be the bytes that are short, not the packets")
	}
}

// The record of packets survives going round many times at every fill.
func TestPacketRecordGoesRound(t *testing.T) {
	c := open(1<<20, nearWrap)
	at, read := uint32(nearWrap), uint32(nearWrap)
	for round := range 3000 {
		for range 1 + round%1000 {
			if _, packets := c.RxSpace(); packets == 0 {
				break
			}
			send(&c, 3)
			at += 3
		}
		read += (at - read) / 2
		tell(&c, 1<<20, read)
		whole := (at - read + 2) / 3
		checkSpace(t, &c, 1<<20-int(at-read), 1024-int(whole))
		if t.Failed() {
			t.Fatal("round", round)
		}
	}
}

// TestCountersPassFourGiB moves more than 2^32 bytes each way; the window is the
// whole one at every turn.
func TestCountersPassFourGiB(t *testing.T) {
	c := open(65536, 0)
	var h csm.Header
	moved := uint64(0)
	for moved < 1<<32+1<<20 {
		checkSpace(t, &c, 65536, 64)
		c.SendRW(&h, 65536, false, false)
		checkSpace(t, &c, 0, 0)
		if h.FwdCnt != uint32(moved) {
			t.Fatalf("fwd_cnt %d, want %d", h.FwdCnt, uint32(moved))
		}
		moved += 65536
		if r := c.Receive(&csm.Header{Op: csm.OpRW, Len: 65536, BufAlloc: 65536, FwdCnt: uint32(moved)}); r != csm.Payload {
			t.Fatalf("reaction %d behind %d bytes", r, moved)
		}
		c.Forwarded(65536)
		if t.Failed() {
			t.Fatal("behind", moved)
		}
	}
}

// TestCreditComesBackUnasked: Linux never asks. Told when the guest sees less
// than 64 KiB of room, or when a quarter of the buffer has come free.
func TestCreditComesBackUnasked(t *testing.T) {
	for _, tt := range []struct {
		name             string
		taken, forwarded int
		due              bool
	}{
		{"nothing forwarded", 262144, 0, false},
		{"one byte forwarded of a full buffer", 262144, 1, true},
		{"one byte forwarded, 64 KiB of room seen", 262144 - 65536, 1, false},
		{"one byte forwarded, one less seen", 262144 - 65535, 1, true},
		{"a quarter but one", 100000, 65535, false},
		{"a quarter", 100000, 65536, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := open(262144, nearWrap)
			fromGuest(&c, csm.OpRW, 0, uint32(tt.taken))
			c.Forwarded(tt.forwarded)
			if c.Due(false) != tt.due {
				t.Fatalf("due %t, want %t", c.Due(false), tt.due)
			}
			if sent := drain(&c); (sent == "CREDIT_UPDATE") != tt.due {
				t.Fatalf("sent %q", sent)
			}
		})
	}
}

// Newer Linux guests send no further ahead than their own buffer would let them
// receive, whatever they are offered.
func TestSmallGuestBufferIsToldAtOnce(t *testing.T) {
	c := open(4096, nearWrap)
	if r := c.Receive(&csm.Header{Op: csm.OpRW, Len: 4096, BufAlloc: 4096, FwdCnt: nearWrap}); r != csm.Payload {
		t.Fatalf("reaction %d", r)
	}
	c.Forwarded(1)
	if sent := drain(&c); sent != "CREDIT_UPDATE" {
		t.Fatalf("sent %q", sent)
	}
}

// What went over a connection is counted beyond the 32 bits of the wire's counters.
func TestTransferredGoesOnBehindTheWrap(t *testing.T) {
	c := open(65536, 1<<32-1)
	fromGuest(&c, csm.OpRW, 0, 10)
	send(&c, 20)
	if tx, rx := c.Transferred(); tx != 1<<32+9 || rx != 1<<32+19 {
		t.Errorf("transferred %d and %d bytes", tx, rx)
	}
}

// A guest that fills every byte of what it is told, and never asks, gets on as
// long as the host reads: with any size of packets, of buffer and of reads.
func TestWriterNeverWaitsForAReader(t *testing.T) {
	for _, buffer := range []uint32{262144, 65536, 65535, 4096, 3, 1} {
		for _, packet := range []uint32{65536, 65535, 4096, 1} {
			for _, read := range []int{1 << 20, 65536, 1000} {
				c := csm.NewGuestInitiated(&csm.Header{Op: csm.OpRequest, BufAlloc: 65536}, buffer)
				c.StartCounters(0, 1<<32-5000)
				c.HostConnected()
				sent, told := uint32(1<<32-5000&0xffffffff), uint32(0)
				var h csm.Header
				for range 400 {
					if c.Next(&h, false) {
						told = h.FwdCnt
					}
					n := min(packet, buffer-(sent-told))
					if n == 0 && c.Buffered() == 0 {
						t.Fatalf("buffer %d, packets of %d, reads of %d: the guest waits for ever", buffer, packet, read)
					}
					if n > 0 && fromGuest(&c, csm.OpRW, 0, n) != csm.Payload {
						t.Fatal("a packet within the credit was refused")
					}
					sent += n
					c.Forwarded(min(read, c.Buffered()))
				}
			}
		}
	}
}

// While memory is short, a connection whose bytes wait tells of no new space, by
// no packet; when they have left it does.
func TestHeldCreditIsToldByNoPacket(t *testing.T) {
	c := open(65536, nearWrap)
	fromGuest(&c, csm.OpRW, 0, 262144)
	c.Forwarded(262143)
	if c.Due(true) {
		t.Fatal("an update is due though it is held back")
	}
	var h csm.Header
	if c.SendRW(&h, 100, false, true); h.FwdCnt != nearWrap {
		t.Errorf("RW tells fwd_cnt %d, want %d", h.FwdCnt, nearWrap)
	}
	fromGuest(&c, csm.OpCreditRequest, 0, 0)
	if !c.Next(&h, true) || h.Op != csm.OpCreditUpdate || h.FwdCnt != nearWrap {
		t.Errorf("answer %v with fwd_cnt %d, want CREDIT_UPDATE with %d", h.Op, h.FwdCnt, nearWrap)
	}
	if c.Next(&h, true) {
		t.Errorf("%v behind the answer", h.Op)
	}
	c.Forwarded(1)
	if !c.Next(&h, true) || h.Op != csm.OpCreditUpdate || h.FwdCnt != (nearWrap+262144)&0xffffffff {
		t.Errorf("%v with fwd_cnt %d once all is forwarded", h.Op, h.FwdCnt)
	}
}

// A flood of CREDIT_REQUEST earns one answer.
func TestCreditRequestsCoalesce(t *testing.T) {
	c := open(65536, 0)
	for range 1000 {
		fromGuest(&c, csm.OpCreditRequest, 0, 0)
	}
	if sent := drain(&c); sent != "CREDIT_UPDATE" {
		t.Errorf("sent %q, want one CREDIT_UPDATE", sent)
	}
}

// One CREDIT_REQUEST leaves until the guest tells something new.
func TestAskingOnce(t *testing.T) {
	c := open(4096, nearWrap)
	send(&c, 4096)
	if !c.AskCredit() || c.AskCredit() {
		t.Fatal("the first request must be due, the second not")
	}
	if sent := drain(&c); sent != "CREDIT_REQUEST" {
		t.Fatalf("sent %q", sent)
	}
	tell(&c, 4096, nearWrap)
	if c.AskCredit() {
		t.Error("asked again though the guest has just said that it has no room")
	}
	tell(&c, 4096, nearWrap+1)
	send(&c, 1)
	if !c.AskCredit() {
		t.Error("not asked again though the window was filled anew")
	}
}

// Linux before 6.8 tells of consumed bytes when it sees less than 64 KiB of its
// window left, and otherwise only by packets that it sends anyway. Its 256
// packets may be few bytes, so that it is silent: it has to be asked.
func TestOldGuestIsAskedForPackets(t *testing.T) {
	const buffer = 262144
	c := open(buffer, 0)
	var h csm.Header
	var told uint32
	read := uint32(0)
	for sent := 0; sent < 1000; {
		if _, packets := c.RxSpace(); packets > 0 {
			c.SendRW(&h, 100, false, false)
			sent++
			continue
		}
		if !c.PacketBound() {
			t.Fatal("it must be the packets that are short")
		}
		read = uint32(100 * sent) // the guest's program reads all there is
		if buffer-(read-told) < 65536 {
			t.Fatal("this guest would tell by itself")
		}
		c.AskCredit()
		if drain(&c) != "CREDIT_REQUEST" {
			t.Fatal("the guest is not asked, and neither side will ever send again")
		}
		told = read
		tell(&c, buffer, told)
	}
}

// RESPONSE is the answer to a REQUEST; one that comes before is made up, and
// would let payload leave before the REQUEST.
func TestResponseBeforeRequestLeftIsAViolation(t *testing.T) {
	c := csm.NewHostInitiated(tableBuffer)
	if r := fromGuest(&c, csm.OpResponse, 0, 0); r != csm.Violated || !c.OwesRST() {
		bytes, _ := c.RxSpace()
		t.Errorf("reaction %d, state %v, space %d, then sent %q: want a violation", r, c.State(), bytes, drain(&c))
	}
}

// The answer to a CREDIT_REQUEST is a CREDIT_UPDATE (virtio v1.4 §5.10.6.3),
// whatever else leaves before it.
func TestCreditRequestIsAnsweredByCreditUpdate(t *testing.T) {
	for name, before := range map[string]func(c *csm.Conn){
		"RW":       func(c *csm.Conn) { send(c, 1) },
		"SHUTDOWN": func(c *csm.Conn) { c.HostEnded() },
	} {
		t.Run(name, func(t *testing.T) {
			c := open(65536, 0)
			fromGuest(&c, csm.OpCreditRequest, 0, 0)
			before(&c)
			for _, op := range []csm.Op{csm.OpShutdown, csm.OpCreditUpdate} {
				var h csm.Header
				if op == csm.OpShutdown && name != "SHUTDOWN" {
					continue
				}
				if ok := c.Next(&h, false); !ok || h.Op != op {
					t.Fatalf("%t, %v leaves, want %v", ok, h.Op, op)
				}
			}
		})
	}
}
