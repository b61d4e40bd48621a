package csm

// State is where a connection stands.
//
//	host CONNECT                                guest REQUEST
//	     │                                            │
//	     ▼          RESPONSE      HostConnected       ▼
//	Connecting ───────────► Established ◄─────── Accepting
//	     │                       │                    │
//	     │         HostClosed, all SHUTDOWN told      │ HostRefused
//	     │                       ▼                    │
//	     │ RST, Expire        Closing                 │
//	     │                       │ RST, Expire,       │
//	     ▼                       ▼ guest SHUTDOWN     ▼
//	   Dead ◄────────────────────┴──────────────────Dead
//
// An Established connection also dies directly: by a guest RST, a violation, or
// when the guest has shut both directions and its last byte is forwarded.
type State uint8

const (
	// Connecting: the host asked, the guest's RESPONSE is due.
	Connecting State = iota
	// Accepting: the guest asked, a host socket is being connected.
	Accepting
	// Established: bytes flow in every direction that nobody has shut.
	Established
	// Closing: the guest was told SHUTDOWN of both directions; its RST is due.
	Closing
	// Dead: over; the owner forgets it and sends the RST that may be owed.
	Dead
	// States is how many states there are.
	States = iota
)

var stateNames = [States]string{"Connecting", "Accepting", "Established", "Closing", "Dead"}

// String returns the state's name.
func (s State) String() string { return stateNames[s] }

// Reaction tells the owner what a packet of the guest asks of the host side.
type Reaction uint8

const (
	// Nothing is asked of the host socket.
	Nothing Reaction = iota
	// Opened: the guest accepted a host-initiated connection.
	Opened
	// Payload: the packet's bytes belong to the host socket. The owner passes
	// them on and calls Forwarded for every byte that left.
	Payload
	// Discarded: nobody will read the packet's bytes; they count as forwarded.
	Discarded
	// Shut: the guest has shut a direction; see HostShutdownDue.
	Shut
	// Gone: the guest reset the connection; nothing more is due to it.
	Gone
	// Violated: the packet was not allowed; the guest is owed an RST.
	Violated
)

// pending is a set of packets that are due to the guest.
type pending uint8

const (
	pendRequest pending = 1 << iota
	pendResponse
	pendCreditUpdate
	pendCreditRequest
	pendShutdown
)

// Conn is the protocol state of one connection. It is confined to the goroutine
// of its owner.
type Conn struct {
	state   State
	pending pending
	owesRST bool

	guestShut   uint32 // SHUTDOWN flags the guest has sent
	hostShut    uint32 // SHUTDOWN flags the host side has earned
	toldShut    uint32 // of hostShut, what the guest was told
	appliedShut uint32 // of guestShut, what the host socket was told

	asked   bool // a CREDIT_REQUEST went out and no news came since
	answers int  // CREDIT_REQUESTs that went out and were not answered

	rx rxCredit
	tx txCredit
}

// NewHostInitiated returns a Connecting connection whose REQUEST is due.
// bufAlloc is the buffer space in bytes that the guest is offered.
func NewHostInitiated(bufAlloc uint32) Conn {
	return Conn{state: Connecting, pending: pendRequest, tx: txCredit{bufAlloc: bufAlloc}}
}

// NewGuestInitiated returns an Accepting connection for the guest's REQUEST h.
func NewGuestInitiated(h *Header, bufAlloc uint32) Conn {
	c := Conn{state: Accepting, tx: txCredit{bufAlloc: bufAlloc}}
	c.rx.update(h.BufAlloc, h.FwdCnt)
	return c
}

// State returns where the connection stands.
func (c *Conn) State() State { return c.state }

// GuestShut returns the SHUTDOWN flags that the guest has sent so far.
func (c *Conn) GuestShut() uint32 { return c.guestShut }

// HostShut returns the SHUTDOWN flags that the host side has earned so far.
func (c *Conn) HostShut() uint32 { return c.hostShut }

// Buffered returns how many bytes the guest has sent that were not forwarded.
func (c *Conn) Buffered() int { return int(c.tx.buffered()) }

// Transferred returns how many bytes of payload the guest has sent in all, and how
// many were sent to it.
func (c *Conn) Transferred() (tx, rx uint64) { return c.tx.received, c.rx.sent }

// Receive takes a packet of the guest whose addresses and type are this
// connection's own.
func (c *Conn) Receive(h *Header) Reaction {
	if c.state == Dead {
		return Nothing
	}
	news := c.rx.update(h.BufAlloc, h.FwdCnt)
	if news {
		c.asked = false
	}
	switch h.Op {
	case OpRST:
		c.Forget()
		return Gone
	case OpResponse:
		return c.receiveResponse()
	case OpShutdown:
		return c.receiveShutdown(h.Flags)
	case OpRW:
		return c.receiveRW(h)
	case OpCreditUpdate:
		c.receiveAnswer(news)
		return c.receiveCredit(h.Op)
	case OpCreditRequest:
		return c.receiveCredit(h.Op)
	}
	// A second REQUEST, and operations nobody knows, end the connection: two
	// connections under one address would be worse (virtio v1.4 §5.10.6.5).
	return c.violate()
}

func (c *Conn) receiveResponse() Reaction {
	switch {
	case c.state == Connecting && c.pending&pendRequest == 0:
		c.state = Established
		return Opened
	case c.state == Connecting || c.state == Accepting:
		return c.violate()
	}
	return Nothing
}

// receiveCredit takes what is about credit alone. Linux sends it as soon as a
// socket has somewhere to connect to, so before our RESPONSE too, which then
// tells our credit.
func (c *Conn) receiveCredit(op Op) Reaction {
	switch {
	case c.state == Connecting:
		return c.violate()
	case c.state != Accepting && op == OpCreditRequest:
		c.pending |= pendCreditUpdate
	}
	return Nothing
}

func (c *Conn) receiveShutdown(flags uint32) Reaction {
	if c.requireOpen() == Violated {
		return Violated
	}
	c.guestShut |= flags & ShutdownBoth
	if c.guestShut&ShutdownSend != 0 {
		c.tx.giveUpMessage()
	}
	c.finishIfDone()
	return Shut
}

func (c *Conn) receiveRW(h *Header) Reaction {
	if c.requireOpen() == Violated {
		return Violated
	}
	if c.guestShut&ShutdownSend != 0 || !c.tx.admit(h.Len) {
		return c.violate()
	}
	if h.Type == TypeSeqpacket && !c.tx.admitPiece(h.Len, h.EndsMessage()) {
		return c.violate()
	}
	if c.hostShut&ShutdownRcv != 0 {
		c.Forwarded(int(h.Len))
		return Discarded
	}
	return Payload
}

// receiveAnswer takes a CREDIT_UPDATE that is the answer to a CREDIT_REQUEST of
// ours, or else tells that the guest has read: without news of bytes that was an
// empty message, for Linux sends one for each message that it reads. Where answers
// and news cross, one may be taken for the other; that is one message too many or
// too few in the count, until the next that has bytes is read.
func (c *Conn) receiveAnswer(news bool) {
	switch {
	case c.answers > 0:
		c.answers--
	case !news:
		c.rx.retireEmpty()
	}
}

// requireOpen ends a connection that is not open yet: before RESPONSE neither
// side may send anything else.
func (c *Conn) requireOpen() Reaction {
	if c.state == Connecting || c.state == Accepting {
		return c.violate()
	}
	return Nothing
}

func (c *Conn) violate() Reaction {
	c.Kill()
	return Violated
}

// Kill ends the connection and leaves the guest owed an RST.
func (c *Conn) Kill() {
	if c.state != Dead {
		c.state, c.pending, c.owesRST = Dead, 0, true
	}
}

// Forget ends the connection without a word to the guest, which has forgotten
// it or never heard of it.
func (c *Conn) Forget() { c.state, c.pending, c.owesRST = Dead, 0, false }

// OwesRST reports whether the guest is to be told that a Dead connection is over.
func (c *Conn) OwesRST() bool { return c.owesRST }

// HostConnected tells that the host socket of an Accepting connection is there.
func (c *Conn) HostConnected() {
	c.state = Established
	c.pending |= pendResponse
}

// HostEnded tells that the host program will send no more: end of file was read.
func (c *Conn) HostEnded() { c.shutHost(ShutdownSend) }

// HostDeaf tells that the host program will read no more. Bytes that wait for
// it, and all that follow, count as forwarded.
func (c *Conn) HostDeaf() { c.shutHost(ShutdownRcv) }

// HostClosed tells that the host program has closed its socket and that every
// byte it sent was sent on.
func (c *Conn) HostClosed() { c.shutHost(ShutdownBoth) }

func (c *Conn) shutHost(flags uint32) {
	if c.state != Established {
		return
	}
	c.hostShut |= flags
	if c.hostShut != c.toldShut {
		c.pending |= pendShutdown
	}
	if c.hostShut&ShutdownRcv != 0 {
		c.Forwarded(c.Buffered())
	}
}

// Forwarded tells that n bytes from the guest have left for the host program,
// or that nobody will ever read them. No more than Buffered counts.
func (c *Conn) Forwarded(n int) {
	c.tx.forward(uint32(n))
	c.finishIfDone()
}

// finishIfDone answers a guest that has shut both directions with RST once its
// last byte was forwarded (virtio v1.4 §5.10.6.5); until then it waits.
func (c *Conn) finishIfDone() {
	if c.guestShut == ShutdownBoth && c.tx.buffered() == 0 && c.state != Dead {
		c.Kill()
	}
}

// HostShutdownDue returns the directions of the host socket that are to be shut
// now, as SHUTDOWN flags of the guest: ShutdownSend means that nothing more will
// be written to the host program, and comes only after the last byte; and, if waits,
// after empty messages that the owner has yet to write. It returns each flag once.
func (c *Conn) HostShutdownDue(waits bool) uint32 {
	due := c.guestShut &^ c.appliedShut
	if waits || c.tx.buffered() != 0 {
		due &^= ShutdownSend
	}
	c.appliedShut |= due
	return due
}

// RxSpace returns how many payload bytes may be sent to the guest now and in how
// many packets at most. Both are 0 while the guest takes none.
func (c *Conn) RxSpace() (bytes, packets int) {
	if c.state != Established || c.pending&pendResponse != 0 || !c.GuestReads() || c.hostShut&ShutdownSend != 0 {
		return 0, 0
	}
	bytes, packets = c.rx.space(), c.rx.packetSpace()
	if bytes == 0 || packets == 0 {
		return 0, 0
	}
	return bytes, packets
}

// MessageLimit returns how many bytes the longest message may have that is sent
// to the guest: it takes one out of its buffer only once it is whole.
func (c *Conn) MessageLimit() int { return min(int(c.rx.bufAlloc), MaxMessage) }

// GuestReads reports whether the guest still wants bytes.
func (c *Conn) GuestReads() bool { return c.guestShut&ShutdownRcv == 0 }

// PacketsRunShort reports whether the guest has left unread half of the packets
// that it may be sent at most. Older Linux guests tell only of bytes, so that
// small packets have to be asked for.
func (c *Conn) PacketsRunShort() bool { return c.rx.packets.n > c.rx.packetSpace() }

// PacketBound reports whether it is the number of packets, not of bytes, that
// keeps RxSpace at nothing.
func (c *Conn) PacketBound() bool { return c.rx.space() > 0 && c.rx.packetSpace() == 0 }

// AskCredit makes one CREDIT_REQUEST due, for bytes wait for the guest to read or
// soon will, unless one went out since the guest last told anything new. It
// reports whether it did.
func (c *Conn) AskCredit() bool {
	if c.asked || c.state != Established {
		return false
	}
	c.asked = true
	c.pending |= pendCreditRequest
	return true
}

// AskCreditAgain is AskCredit though one went out already: the guest may have
// answered before its program read.
func (c *Conn) AskCreditAgain() bool {
	c.asked = false
	return c.AskCredit()
}

// Due reports whether any packet other than RW is due to the guest. hold keeps
// back news of freed buffer space while bytes wait for the host program, but not
// while these are a message's beginning: its end needs the space.
func (c *Conn) Due(hold bool) bool {
	return c.pending != 0 || c.creditDue(hold)
}

func (c *Conn) creditDue(hold bool) bool {
	open := c.state == Established && c.pending&pendResponse == 0
	return open && c.guestShut&ShutdownSend == 0 && !c.holds(hold) && c.tx.updateDue(c.rx.bufAlloc)
}

func (c *Conn) holds(hold bool) bool { return hold && c.tx.buffered() != c.tx.partial }

// Next takes the packet that is due first: REQUEST or RESPONSE, SHUTDOWN, and
// then credit. It fills Op, Flags, Len and the credit fields of h; ok is false
// when nothing is due. After a SHUTDOWN of both directions the connection is
// Closing.
func (c *Conn) Next(h *Header, hold bool) (ok bool) {
	switch {
	case c.take(pendRequest):
		h.Op, h.Flags = OpRequest, 0
	case c.take(pendResponse):
		h.Op, h.Flags = OpResponse, 0
	case c.take(pendShutdown):
		h.Op, h.Flags = OpShutdown, c.hostShut
		c.tellShutdown()
	case c.take(pendCreditUpdate) || c.creditDue(hold):
		h.Op, h.Flags = OpCreditUpdate, 0
	case c.take(pendCreditRequest):
		h.Op, h.Flags = OpCreditRequest, 0
		c.answers++
	default:
		return false
	}
	h.Len = 0
	c.fillCredit(h, hold)
	return true
}

func (c *Conn) take(p pending) bool {
	due := c.pending&p != 0
	c.pending &^= p
	return due
}

func (c *Conn) tellShutdown() {
	c.toldShut = c.hostShut
	if c.toldShut == ShutdownBoth && c.state == Established {
		c.state = Closing
	}
}

// SendRW fills h, whose type is set, for an RW packet of n bytes, n being within
// RxSpace, and accounts for it. On a connection of messages last tells that one
// ends with the packet; an empty message is a packet without bytes.
func (c *Conn) SendRW(h *Header, n int, last, hold bool) {
	h.Op, h.Flags, h.Len = OpRW, 0, uint32(n)
	messages := h.Type == TypeSeqpacket
	if messages && last {
		h.Flags = SeqEOM
	}
	c.rx.send(n, last || !messages)
	c.fillCredit(h, hold)
}

// fillCredit puts our credit into a packet: any packet carries it, so an update
// that was due is told by the way.
func (c *Conn) fillCredit(h *Header, hold bool) {
	if !c.holds(hold) {
		c.tx.told = c.tx.forwarded
	}
	h.BufAlloc, h.FwdCnt = c.tx.bufAlloc, c.tx.told
}
