package csm_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// messageFromGuest passes a packet of a connection of messages.
func messageFromGuest(c *csm.Conn, op csm.Op, flags, n, read uint32) csm.Reaction {
	return c.Receive(&csm.Header{Type: csm.TypeSeqpacket, Op: op, Flags: flags, Len: n, BufAlloc: tableGuest, FwdCnt: read})
}

// sendMessage sends a message of n bytes to the guest in as many packets.
func sendMessage(c *csm.Conn, n, packets int) {
	for i := range packets {
		h := csm.Header{Type: csm.TypeSeqpacket}
		c.SendRW(&h, n/packets, i == packets-1, false)
	}
}

func TestEndsMessage(t *testing.T) {
	for _, test := range []struct {
		h    csm.Header
		want bool
	}{
		{csm.Header{Type: csm.TypeSeqpacket}, false},
		{csm.Header{Type: csm.TypeSeqpacket, Flags: csm.SeqEOR}, false},
		{csm.Header{Type: csm.TypeSeqpacket, Flags: csm.SeqEOM}, true},
		{csm.Header{Type: csm.TypeSeqpacket, Flags: 0xffffffff}, true},
		{csm.Header{Type: csm.TypeStream, Flags: 0xffffffff}, false},
	} {
		if got := test.h.EndsMessage(); got != test.want {
			t.Errorf("%+v: %t", test.h, got)
		}
	}
}

func TestFlagsOfMessages(t *testing.T) {
	c := established()
	for _, test := range []struct {
		typ  csm.Type
		last bool
		want uint32
	}{
		{csm.TypeSeqpacket, false, 0}, {csm.TypeSeqpacket, true, csm.SeqEOM}, {csm.TypeStream, false, 0}, {csm.TypeStream, true, 0},
	} {
		h := csm.Header{Type: test.typ, Flags: 99}
		if c.SendRW(&h, 10, test.last, false); h.Flags != test.want || h.Op != csm.OpRW || h.Len != 10 {
			t.Errorf("type %d, last %t: %v with flags %d and %d bytes", test.typ, test.last, h.Op, h.Flags, h.Len)
		}
	}
}

// A message may fill the whole buffer, and must end then.
func TestMessageFillsTheBuffer(t *testing.T) {
	const half = tableBuffer / 2
	for _, test := range []struct {
		name   string
		pieces []uint32
		flags  []uint32
		want   csm.Reaction
	}{
		{"ends with the last byte", []uint32{half, half}, []uint32{0, csm.SeqEOM}, csm.Payload},
		{"has no end", []uint32{half, half}, []uint32{0, 0}, csm.Violated},
		{"a record's end is none", []uint32{half, half}, []uint32{0, csm.SeqEOR}, csm.Violated},
		{"a byte is left", []uint32{half, half - 1}, []uint32{0, 0}, csm.Payload},
		{"two messages", []uint32{half, half}, []uint32{csm.SeqEOM, 0}, csm.Payload},
		{"beyond it", []uint32{half, half + 1}, []uint32{0, csm.SeqEOM}, csm.Violated},
	} {
		c := established()
		var got csm.Reaction
		for i, n := range test.pieces {
			got = messageFromGuest(&c, csm.OpRW, test.flags[i], n, 0)
		}
		if got != test.want || c.OwesRST() != (test.want == csm.Violated) {
			t.Errorf("%s: reaction %d, want %d", test.name, got, test.want)
		}
	}
}

// The beginning of a message waits for its end and for nobody else: it neither
// holds credit back nor keeps a guest's SHUTDOWN from the host socket.
func TestBegunMessage(t *testing.T) {
	c := established()
	messageFromGuest(&c, csm.OpRW, csm.SeqEOM, 200000, 0)
	messageFromGuest(&c, csm.OpRW, 0, 50000, 0)
	c.Forwarded(200000)
	if !c.Due(true) {
		t.Error("credit for the end of a message is held back")
	}
	messageFromGuest(&c, csm.OpRW, csm.SeqEOM, 1, 0)
	if drain(&c); c.Due(true) {
		t.Error("due twice")
	}
	messageFromGuest(&c, csm.OpRW, 0, 1000, 0)
	c.Forwarded(20000)
	if c.Forwarded(20000); c.Due(true) {
		t.Error("credit is told though a whole message waits")
	}

	messageFromGuest(&c, csm.OpShutdown, csm.ShutdownSend, 0, 0)
	if n := c.Buffered(); n != 10001 {
		t.Errorf("%d bytes wait, want those of the whole message", n)
	}
	if c.HostShutdownDue(false) != 0 {
		t.Error("the end is told before the last message")
	}
	if c.Forwarded(10001); c.HostShutdownDue(false) != csm.ShutdownSend {
		t.Error("the end is not told")
	}
}

// A guest that is done altogether does not wait for the end of its own message.
func TestShutdownBehindABegunMessage(t *testing.T) {
	c := established()
	messageFromGuest(&c, csm.OpRW, 0, 1000, 0)
	messageFromGuest(&c, csm.OpShutdown, csm.ShutdownBoth, 0, 0)
	if c.State() != csm.Dead || !c.OwesRST() {
		t.Errorf("%v, owes RST %t", c.State(), c.OwesRST())
	}
}

// packetsLeft returns how many messages the guest can take now.
func packetsLeft(c *csm.Conn) int {
	_, packets := c.RxSpace()
	return packets
}

// The guest acknowledges a message at once, all its packets, and only then.
func TestPacketsOfMessages(t *testing.T) {
	c := established()
	const limit = tableGuest / 1024
	sendMessage(&c, 1000, 10)
	sendMessage(&c, 500, 5)
	if n := packetsLeft(&c); n != limit-15 {
		t.Errorf("%d packets left", n)
	}
	messageFromGuest(&c, csm.OpCreditUpdate, 0, 0, 999)
	if n := packetsLeft(&c); n != limit-15 {
		t.Errorf("%d packets left, and no message is read", n)
	}
	messageFromGuest(&c, csm.OpCreditUpdate, 0, 0, 1000)
	if n := packetsLeft(&c); n != limit-5 {
		t.Errorf("%d packets left, and one message is read", n)
	}
}

// The limit of packets is for the beginning of a message, for a guest that cannot
// have its end can never read it.
func TestPacketLimitIsBetweenMessages(t *testing.T) {
	c := established()
	for range tableGuest/1024 - 1 {
		sendMessage(&c, 1, 1)
	}
	h := csm.Header{Type: csm.TypeSeqpacket}
	for i := range 1000 {
		if packetsLeft(&c) == 0 {
			t.Fatalf("no packet left for piece %d", i)
		}
		c.SendRW(&h, 1, false, false)
	}
	c.SendRW(&h, 1, true, false)
	if n := packetsLeft(&c); n != 0 || !c.PacketBound() {
		t.Errorf("%d packets left for the next message", n)
	}
}

// An empty message is read when a CREDIT_UPDATE says nothing new, or when bytes
// behind it are; not when those before it are, and not by what was asked for.
func TestEmptyMessagesAreAcknowledged(t *testing.T) {
	const limit = tableGuest / 1024
	c := established()
	update := func(read uint32) { messageFromGuest(&c, csm.OpCreditUpdate, 0, 0, read) }
	want := func(what string, left int) {
		t.Helper()
		if n := packetsLeft(&c); n != limit-left {
			t.Errorf("%s: %d packets unread, want %d", what, limit-n, left)
		}
	}
	sendMessage(&c, 100, 1)
	sendMessage(&c, 0, 1)
	sendMessage(&c, 0, 1)
	sendMessage(&c, 1, 1)
	sendMessage(&c, 0, 1)
	want("five sent", 5)
	update(0)
	want("no news, and the oldest has bytes", 5)
	update(100)
	want("the first read", 4)
	messageFromGuest(&c, csm.OpCreditRequest, 0, 0, 100)
	want("a question", 4)
	update(100)
	want("an empty one read", 3)
	c.AskCredit()
	drain(&c)
	update(100)
	want("the answer to a question", 3)
	update(100)
	want("the other empty one read", 2)
	update(100)
	want("no news, and the oldest has a byte", 2)
	update(101)
	want("the byte read", 1)
	update(101)
	want("the last empty one read", 0)
	update(101)
	want("no news about nothing", 0)

	sendMessage(&c, 0, 1)
	sendMessage(&c, 0, 1)
	sendMessage(&c, 7, 1)
	update(108)
	want("bytes behind them read", 0)
}

func TestMessageLimit(t *testing.T) {
	c := established()
	for _, test := range []struct {
		buffer uint32
		want   int
	}{{0, 0}, {128, 128}, {csm.MaxMessage, csm.MaxMessage}, {csm.MaxMessage + 1, csm.MaxMessage}, {0xffffffff, csm.MaxMessage}} {
		c.Receive(&csm.Header{Type: csm.TypeSeqpacket, Op: csm.OpCreditUpdate, BufAlloc: test.buffer})
		if got := c.MessageLimit(); got != test.want {
			t.Errorf("a buffer of %d: %d", test.buffer, got)
		}
	}
}

func TestMessagesDoNotAllocate(t *testing.T) {
	c := established()
	var h csm.Header
	h.Type = csm.TypeSeqpacket
	read := uint32(0)
	turn := func() {
		for i := range 64 {
			c.SendRW(&h, 3732, i%4 == 3, false)
			read += 3732
		}
		c.SendRW(&h, 0, true, false)
		messageFromGuest(&c, csm.OpCreditUpdate, 0, 0, read)
		messageFromGuest(&c, csm.OpCreditUpdate, 0, 0, read)
	}
	turn()
	if n := testing.AllocsPerRun(100, turn); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
