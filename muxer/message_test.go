package muxer_test

import (
	"fmt"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"golang.org/x/sys/unix"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// messageSizes are those at which something else begins: no bytes, one packet of
// Linux, one packet at all, the default limit of a host socket, the window.
var messageSizes = []int{0, 1, 44, 3731, 3732, 3733, 65535, 65536, 65537, 131072, 212960, 212961, 262143, csm.MaxMessage}

func TestMessagesOfEverySize(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]options{
		"like Linux":       {},
		"ring of 256":      {ringSize: 256},
		"without indirect": {noIndirect: true},
		"few rx buffers":   {driver: muxertest.Options{Buffers: 5}},
		"large rx buffers": {driver: muxertest.Options{Framing: muxertest.Framing{Rx: []int{44 + 64<<10}}}},
		"odd framing":      {driver: muxertest.Options{Buffers: 20, Framing: muxertest.Framing{Rx: []int{1, 7, 40, 1000, 3}, Tx: muxertest.CutAt(1, 43, 45, 5000), Gap: 3}}},
		"eighteen pieces":  {driver: muxertest.Options{Framing: muxertest.Framing{Tx: muxertest.Pieces(18), Direct: 3}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.seqpacket = true
			v := newVM(t, o)
			p, g := v.listenMessages(52), v.guest()
			l := g.ListenSeqpacket(1234)
			guest, host := v.dialMessages(g, p, 52)
			checkMessages(t, guest, host)
			called, caller := v.callMessages(l, 1234)
			checkMessages(t, called, caller)

			guest.Close()
			host.wantEOF()
			caller.Close()
			wantGuestMessageEOF(t, called)
			v.idle()
		})
	}
}

// checkMessages passes messages of every size in both directions, one by one and
// then many on their way.
func checkMessages(t *testing.T, guest *muxertest.Conn, host *messageSock) {
	t.Helper()
	for _, size := range messageSizes {
		data := pattern(size)
		guestSends(t, guest, data)
		host.want(data)
		host.send(data)
		wantGuestMessage(t, guest, data)
	}
	done := make(chan error, 2)
	go func() { done <- eachMessage(guest.WriteMessage) }()
	go func() { done <- eachMessage(host.trySend) }()
	received := make(chan struct{})
	go func() {
		defer close(received)
		for _, size := range messageSizes {
			host.want(pattern(size))
		}
	}()
	for _, size := range messageSizes {
		wantGuestMessage(t, guest, pattern(size))
	}
	<-received
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func eachMessage(send func([]byte) error) error {
	for _, size := range messageSizes {
		if err := send(pattern(size)); err != nil {
			return fmt.Errorf("message of %d bytes: %w", size, err)
		}
	}
	return nil
}

// A message that exceeds the credit free now, but not the guest's buffer, flows in
// pieces: what is free is filled to its last byte.
func TestMessageFlowsInPieces(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		first, second := pattern(200<<10), pattern(csm.MaxMessage)
		s.send(first)
		s.send(second)
		v.eventually("the guest's buffer is full", func() bool { return c.Unread() == csm.MaxMessage })
		if n := c.UnreadMessages(); n != 1 {
			t.Fatalf("%d whole messages in the guest's buffer, want 1", n)
		}
		s.send([]byte("third"))
		wantGuestMessage(t, c, first)
		wantGuestMessage(t, c, second)
		wantGuestMessage(t, c, []byte("third"))
		if n := v.stats.CreditStalls.Load(); n == 0 {
			t.Error("no stall was counted")
		}
	})
}

// An empty message is not overlooked that comes behind one in pieces and has to
// wait until the guest reads.
func TestEmptyMessageBehindOneInPieces(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, driver: muxertest.Options{Buffers: 20}})
	p, g := v.listenMessages(52), v.guest()
	c, s := v.dialMessages(g, p, 52)
	data := pattern(csm.MaxMessage)
	s.send(data)
	s.send(nil)
	s.send([]byte("next"))
	v.count("stalls", &v.stats.CreditStalls, 1)
	wantGuestMessage(t, c, data)
	wantGuestMessage(t, c, nil)
	wantGuestMessage(t, c, []byte("next"))
}

// While a guest has few receive buffers a message goes out in pieces, too, and so
// it does over a pause of the rings.
func TestPauseInTheMiddleOfAMessage(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, driver: muxertest.Options{Buffers: -1}})
	p, d := v.listenMessages(52), v.driver
	d.PostBuffers(1)
	s := v.openMessages(p, 1000, 52)
	data := pattern(9000)
	s.send(data)
	d.PostBuffers(1)
	first := d.Expect(csm.OpRW)
	got := append([]byte(nil), first.Payload...)
	v.pause()
	v.resume()
	d.PostBuffers(2)
	second := d.Expect(csm.OpRW)
	got = append(got, second.Payload...)
	last := d.Expect(csm.OpRW)
	got = append(got, last.Payload...)
	if string(got) != string(data) {
		t.Fatalf("%d bytes came, not those that were sent", len(got))
	}
	if first.Flags != 0 || second.Flags != 0 || last.Flags != csm.SeqEOM {
		t.Fatalf("flags %d, %d, %d; want EOM on the last alone", first.Flags, second.Flags, last.Flags)
	}
}

// The guest's messages leave whole, whatever packets they came in, and whatever
// stands between those. A record's end cannot be told; an empty piece is nothing.
func TestPiecesOfTheGuestMakeOneMessage(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	p, stream, d := v.listenMessages(52), v.listen(53), v.driver
	a, b, other := v.openMessages(p, 1000, 52), v.openMessages(p, 1001, 52), v.open(stream, 1002, 53)
	v.do(func() { // all of it is there when the ring is served
		add := func(guestPort uint32, flags uint32, payload string) {
			h := v.messageHeader(guestPort, 52, csm.OpRW)
			h.Flags = flags
			d.Add(h, []byte(payload))
		}
		add(1000, 0, "one ")
		add(1000, 0, "and ")
		add(1001, 0, "a ")
		add(1000, 0, "")
		d.Add(d.Header(1002, 53, csm.OpRW), []byte("bytes"))
		add(1000, csm.SeqEOM|csm.SeqEOR, "the rest")
		add(1000, csm.SeqEOM, "")
		add(1000, csm.SeqEOM, "next")
		add(1001, csm.SeqEOM, "b")
		add(1001, csm.SeqEOM|1<<31, "c")
		d.Kick()
	})
	a.want([]byte("one and the rest"))
	a.want(nil)
	a.want([]byte("next"))
	b.want([]byte("a b"))
	b.want([]byte("c"))
	other.want([]byte("bytes"))
	if n := v.stats.TxMessages.Load(); n != 5 {
		t.Errorf("%d messages counted, want 5", n)
	}
}

// A message of more ranges than one system call takes is put together first.
func TestMessageOfManyRanges(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, ringSize: 2048, driver: muxertest.Options{Framing: muxertest.Framing{Direct: 100, Tx: func(size int) []int {
		if size < 2000 {
			return []int{size}
		}
		return muxertest.Pieces(1100)(size)
	}}}})
	p, g := v.listenMessages(52), v.guest()
	c, s := v.dialMessages(g, p, 52)
	for _, size := range []int{3000, 60000, 200 << 10} {
		data := pattern(size)
		guestSends(t, c, data)
		s.want(data)
	}
}

// Empty messages take no credit and tell nothing by fwd_cnt. Those towards the
// guest are still no more than it can hold, and all of them come.
func TestEmptyMessagesTowardsTheGuest(t *testing.T) {
	t.Parallel()
	messagePair(t, func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock) {
		const n = 2000
		payload := func(i int) []byte {
			if i < n/2 {
				return nil
			}
			return pattern(i % 7 / 6) // one in seven has a byte
		}
		sent := make(chan error, 1)
		go func() {
			for i := range n {
				if err := s.trySend(payload(i)); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		v.eventually("the guest's buffer has no room for packets", func() bool { return c.UnreadMessages() >= 256 })
		for i := range n {
			wantGuestMessage(t, c, payload(i))
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if v.stats.PacketStalls.Load() == 0 {
			t.Error("no stall was counted")
		}
		if got := v.stats.RxMessages.Load(); got != n {
			t.Errorf("%d messages counted, want %d", got, n)
		}
	})
}

// That the bytes before an empty message were read does not make room for it: the
// guest would be sent more than it can hold, of which muxertest tells.
func TestEmptyMessagesBehindBytes(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	p, g := v.listenMessages(52), v.guest()
	c, s := v.dialMessages(g, p, 52)
	messages := [][]byte{[]byte("x")}
	for range 255 {
		messages = append(messages, nil)
	}
	messages = append(append(messages, messages...), messages...)
	sent := make(chan error, 1)
	go func() {
		for _, p := range messages {
			if err := s.trySend(p); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for i, p := range messages {
		inGuest := min(i+256, len(messages))
		v.eventually("the guest has 256 messages", func() bool { return c.UnreadMessages() >= inGuest-i })
		wantGuestMessage(t, c, p)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// The guest says how large its buffer is: no longer message goes to it, and none
// beyond 256 KiB.
func TestMessageLargerThanTheGuestTakes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		buffer uint32
		limit  int
	}{{4096, 4096}, {1024, 1024}, {csm.MaxMessage, csm.MaxMessage}, {2 << 20, csm.MaxMessage}} {
		t.Run(fmt.Sprint(test.buffer), func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{seqpacket: true, driver: muxertest.Options{BufAlloc: test.buffer}})
			p, g := v.listenMessages(52), v.guest()
			c, s := v.dialMessages(g, p, 52)
			for range 3 {
				s.send(pattern(test.limit))
				wantGuestMessage(t, c, pattern(test.limit))
			}
			s.send([]byte("x"))
			s.send(pattern(test.limit + 1))
			wantGuestMessage(t, c, []byte("x"))
			if err := c.WaitOver(); err != muxertest.ErrReset {
				t.Fatalf("the guest's connection ends with %v, want RST", err)
			}
			s.wantEOF()
			v.count("message_size", &v.stats.Resets[muxer.ResetMessageSize], 1)
			v.idle()
		})
	}
}

// A guest that shrinks its buffer below a message on its way could never have the
// rest of it.
func TestGuestShrinksItsBufferUnderAMessage(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	p, g := v.listenMessages(52), v.guest()
	c, s := v.dialMessages(g, p, 52)
	s.send(pattern(100 << 10))
	s.send(pattern(csm.MaxMessage))
	v.eventually("the guest's buffer is full", func() bool { return c.Unread() == csm.MaxMessage })
	c.SetBuffer(100 << 10)
	if err := c.WaitOver(); err != muxertest.ErrReset {
		t.Fatalf("the guest's connection ends with %v, want RST", err)
	}
	s.wantEOF()
	v.count("message_size", &v.stats.Resets[muxer.ResetMessageSize], 1)
	v.idle()
}

// A raised buffer is used: more than 256 KiB are on their way, in several messages.
func TestGuestRaisesItsBuffer(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	p, g := v.listenMessages(52), v.guest()
	c, s := v.dialMessages(g, p, 52)
	c.SetBuffer(1 << 20)
	data := pattern(csm.MaxMessage)
	for range 3 {
		s.send(data)
	}
	v.eventually("three messages are there", func() bool { return c.UnreadMessages() == 3 })
	for range 3 {
		wantGuestMessage(t, c, data)
	}
}

// Descriptors that a host program passes along with a message go nowhere.
func TestDescriptorsOfHostProgramsAreDropped(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, driver: muxertest.Options{BufAlloc: 8 << 10}})
	p, g := v.listenMessages(52), v.guest()
	c, s := v.dialMessages(g, p, 52)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	for _, size := range []int{1, 10, 8 << 10} {
		s.send(pattern(8 << 10)) // so that the next has to wait, and then goes in pieces
		if _, _, err := s.WriteMsgUnix(pattern(size), unix.UnixRights(pipe[1], pipe[1]), nil); err != nil {
			t.Fatal(err)
		}
		wantGuestMessage(t, c, pattern(8<<10))
		wantGuestMessage(t, c, pattern(size))
	}
	unix.Close(pipe[1])
	var b [1]byte
	if n, err := unix.Read(pipe[0], b[:]); n != 0 || err != nil {
		t.Fatalf("the pipe reads %d, %v; want end of file, for nobody else has its other end", n, err)
	}
}

// A receive buffer may have more pieces than one system call takes.
func TestMessageIntoManyPieces(t *testing.T) {
	t.Parallel()
	rx := []int{csm.HeaderSize - 1}
	for range 1100 {
		rx = append(rx, 1)
	}
	v := newVM(t, options{
		seqpacket: true, ringSize: 4096, noIndirect: true,
		driver: muxertest.Options{Framing: muxertest.Framing{Rx: rx}},
	})
	p, g := v.listenMessages(52), v.guest()
	c, s := v.dialMessages(g, p, 52)
	for _, n := range []int{900, 1022, 1023, 1024, 1025, 1099, 1100, 4000} {
		s.send(pattern(n))
		wantGuestMessage(t, c, pattern(n))
	}
}
