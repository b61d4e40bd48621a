package csm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

const (
	tableBuffer = 256 << 10 // what we offer the guest
	tableGuest  = 256 << 10 // what the guest offers us
)

// stand is a place in the life of a connection that the table starts from.
type stand struct {
	name string
	conn func() csm.Conn
}

var stands = []stand{
	{"Connecting", func() csm.Conn { return csm.NewHostInitiated(tableBuffer) }},
	{"Connecting, asked", func() csm.Conn {
		c := csm.NewHostInitiated(tableBuffer)
		drain(&c)
		return c
	}},
	{"Accepting", accepting},
	{"Established, RESPONSE due", func() csm.Conn {
		c := accepting()
		c.HostConnected()
		return c
	}},
	{"Established", established},
	{"Established, bytes wait", func() csm.Conn {
		c := established()
		fromGuest(&c, csm.OpRW, 0, 1000)
		return c
	}},
	{"guest shut SEND", func() csm.Conn { return guestShut(csm.ShutdownSend, 0) }},
	{"guest shut SEND, bytes wait", func() csm.Conn { return guestShut(csm.ShutdownSend, 1000) }},
	{"guest shut RCV", func() csm.Conn { return guestShut(csm.ShutdownRcv, 0) }},
	{"guest shut both, bytes wait", func() csm.Conn { return guestShut(csm.ShutdownBoth, 1000) }},
	{"host ended", func() csm.Conn {
		c := established()
		c.HostEnded()
		drain(&c)
		return c
	}},
	{"host deaf", func() csm.Conn {
		c := established()
		c.HostDeaf()
		drain(&c)
		return c
	}},
	{"host closed, untold", func() csm.Conn {
		c := established()
		c.HostClosed()
		return c
	}},
	{"Closing", func() csm.Conn {
		c := established()
		c.HostClosed()
		drain(&c)
		return c
	}},
	{"Dead, RST owed", func() csm.Conn {
		c := established()
		c.Kill()
		return c
	}},
	{"Dead, forgotten", func() csm.Conn {
		c := established()
		c.Forget()
		return c
	}},
}

func accepting() csm.Conn {
	return csm.NewGuestInitiated(&csm.Header{Op: csm.OpRequest, BufAlloc: tableGuest}, tableBuffer)
}

func established() csm.Conn {
	c := accepting()
	c.HostConnected()
	drain(&c)
	return c
}

func guestShut(flags uint32, waiting uint32) csm.Conn {
	c := established()
	fromGuest(&c, csm.OpRW, 0, waiting)
	fromGuest(&c, csm.OpShutdown, flags, 0)
	c.HostShutdownDue(false)
	return c
}

func fromGuest(c *csm.Conn, op csm.Op, flags, n uint32) csm.Reaction {
	return c.Receive(&csm.Header{Op: op, Flags: flags, Len: n, BufAlloc: tableGuest})
}

// drain lets everything leave that is due, and names it.
func drain(c *csm.Conn) string {
	var sent []string
	var h csm.Header
	for c.Next(&h, false) {
		name := h.Op.String()
		if h.Op == csm.OpShutdown {
			name = fmt.Sprint(name, h.Flags)
		}
		if sent = append(sent, name); len(sent) > 4 {
			return "ever more packets"
		}
	}
	return strings.Join(sent, " ")
}

// event is what happens to a connection; it returns the reaction's name, or ""
// for what the host side does.
type event struct {
	name string
	do   func(c *csm.Conn) string
}

var events = []event{
	packet("INVALID", csm.OpInvalid, 0, 0),
	packet("REQUEST", csm.OpRequest, 0, 0),
	packet("RESPONSE", csm.OpResponse, 0, 0),
	packet("RST", csm.OpRST, 0, 0),
	packet("SHUTDOWN:0", csm.OpShutdown, 0, 0),
	packet("SHUTDOWN:1", csm.OpShutdown, 1, 0),
	packet("SHUTDOWN:2", csm.OpShutdown, 2, 0),
	packet("SHUTDOWN:3", csm.OpShutdown, 3, 0),
	packet("SHUTDOWN:4", csm.OpShutdown, 4, 0),
	packet("SHUTDOWN:all", csm.OpShutdown, 0xffffffff, 0),
	packet("RW:0", csm.OpRW, 0, 0),
	packet("RW:1000", csm.OpRW, 0, 1000),
	packet("RW:credit", csm.OpRW, 0, atCredit),
	packet("RW:credit+1", csm.OpRW, 0, overCredit),
	packet("RW:2^32-1", csm.OpRW, 0, 0xffffffff),
	packet("RW:flags", csm.OpRW, 0xffffffff, 1000),
	packet("CREDIT_UPDATE", csm.OpCreditUpdate, 0, 0),
	packet("CREDIT_REQUEST", csm.OpCreditRequest, 0, 0),
	packet("op8", 8, 0, 0),
	packet("op65535", 65535, 0, 0),
	host("HostEnded", (*csm.Conn).HostEnded),
	host("HostDeaf", (*csm.Conn).HostDeaf),
	host("HostClosed", (*csm.Conn).HostClosed),
	host("Forwarded", func(c *csm.Conn) { c.Forwarded(c.Buffered()) }),
	host("AskCredit", func(c *csm.Conn) { c.AskCredit() }),
	host("Kill", (*csm.Conn).Kill),
	host("Forget", (*csm.Conn).Forget),
	host("Next", func(*csm.Conn) {}),
}

// Lengths that depend on what waits already.
const (
	atCredit   = 1<<32 - 2
	overCredit = 1<<32 - 3
)

func packet(name string, op csm.Op, flags, n uint32) event {
	return event{name, func(c *csm.Conn) string {
		switch n {
		case atCredit:
			n = tableBuffer - uint32(c.Buffered())
		case overCredit:
			n = tableBuffer - uint32(c.Buffered()) + 1
		}
		return reactionNames[fromGuest(c, op, flags, n)]
	}}
}

func host(name string, do func(c *csm.Conn)) event {
	return event{name, func(c *csm.Conn) string {
		do(c)
		return ""
	}}
}

var reactionNames = map[csm.Reaction]string{
	csm.Nothing: "Nothing", csm.Opened: "Opened", csm.Payload: "Payload", csm.Discarded: "Discarded",
	csm.Shut: "Shut", csm.Gone: "Gone", csm.Violated: "Violated",
}

// outcome is what can be seen of a connection after an event: the reaction, the
// state it led to, the SHUTDOWN flags due to the host socket, the packets that
// leave, and the state when they have left.
func outcome(c *csm.Conn, e event) string {
	parts := []string{}
	if reaction := e.do(c); reaction != "" {
		parts = append(parts, reaction)
	}
	state := c.State()
	parts = append(parts, state.String())
	if c.OwesRST() {
		parts = append(parts, "RST")
	}
	if flags := c.HostShutdownDue(false); flags != 0 && state != csm.Dead {
		parts = append(parts, fmt.Sprint("host", flags))
	}
	if sent := drain(c); sent != "" {
		parts = append(parts, "> "+sent)
	}
	if c.State() != state {
		parts = append(parts, "> "+c.State().String())
	}
	return strings.Join(parts, " ")
}

// table says for every stand what every event leads to: the reaction, the state,
// RST when the guest is owed one, the SHUTDOWN flags due to the host socket, then
// behind ">" what leaves for the guest and the state that this leads to.
var table = map[string]map[string]string{
	"Connecting": {
		"Violated Dead RST": "INVALID REQUEST RESPONSE SHUTDOWN:0 SHUTDOWN:1 SHUTDOWN:2 SHUTDOWN:3 SHUTDOWN:4 " +
			"SHUTDOWN:all RW:0 RW:1000 RW:credit RW:credit+1 RW:2^32-1 RW:flags CREDIT_UPDATE " +
			"CREDIT_REQUEST op8 op65535",
		"Gone Dead":            "RST",
		"Connecting > REQUEST": "HostEnded HostDeaf HostClosed Forwarded AskCredit Next",
		"Dead RST":             "Kill",
		"Dead":                 "Forget",
	},
	"Connecting, asked": {
		"Violated Dead RST": "INVALID REQUEST SHUTDOWN:0 SHUTDOWN:1 SHUTDOWN:2 SHUTDOWN:3 SHUTDOWN:4 SHUTDOWN:all " +
			"RW:0 RW:1000 RW:credit RW:credit+1 RW:2^32-1 RW:flags CREDIT_UPDATE CREDIT_REQUEST op8 " +
			"op65535",
		"Opened Established": "RESPONSE",
		"Gone Dead":          "RST",
		"Connecting":         "HostEnded HostDeaf HostClosed Forwarded AskCredit Next",
		"Dead RST":           "Kill",
		"Dead":               "Forget",
	},
	"Accepting": {
		"Violated Dead RST": "INVALID REQUEST RESPONSE SHUTDOWN:0 SHUTDOWN:1 SHUTDOWN:2 SHUTDOWN:3 SHUTDOWN:4 " +
			"SHUTDOWN:all RW:0 RW:1000 RW:credit RW:credit+1 RW:2^32-1 RW:flags op8 op65535",
		"Nothing Accepting": "CREDIT_UPDATE CREDIT_REQUEST",
		"Gone Dead":         "RST",
		"Accepting":         "HostEnded HostDeaf HostClosed Forwarded AskCredit Next",
		"Dead RST":          "Kill",
		"Dead":              "Forget",
	},
	"Established, RESPONSE due": {
		"Violated Dead RST":                            "INVALID REQUEST RW:credit+1 RW:2^32-1 op8 op65535",
		"Nothing Established > RESPONSE":               "RESPONSE CREDIT_UPDATE",
		"Nothing Established > RESPONSE CREDIT_UPDATE": "CREDIT_REQUEST",
		"Gone Dead":                                  "RST",
		"Shut Established > RESPONSE":                "SHUTDOWN:0 SHUTDOWN:4",
		"Shut Established host1 > RESPONSE":          "SHUTDOWN:1",
		"Shut Established host2 > RESPONSE":          "SHUTDOWN:2",
		"Shut Dead RST":                              "SHUTDOWN:3 SHUTDOWN:all",
		"Payload Established > RESPONSE":             "RW:0 RW:1000 RW:credit RW:flags",
		"Established > RESPONSE SHUTDOWN2":           "HostEnded",
		"Established > RESPONSE SHUTDOWN1":           "HostDeaf",
		"Established > RESPONSE SHUTDOWN3 > Closing": "HostClosed",
		"Established > RESPONSE":                     "Forwarded Next",
		"Established > RESPONSE CREDIT_REQUEST":      "AskCredit",
		"Dead RST":                                   "Kill",
		"Dead":                                       "Forget",
	},
	"Established": {
		"Violated Dead RST":                   "INVALID REQUEST RW:credit+1 RW:2^32-1 op8 op65535",
		"Nothing Established":                 "RESPONSE CREDIT_UPDATE",
		"Gone Dead":                           "RST",
		"Shut Established":                    "SHUTDOWN:0 SHUTDOWN:4",
		"Shut Established host1":              "SHUTDOWN:1",
		"Shut Established host2":              "SHUTDOWN:2",
		"Shut Dead RST":                       "SHUTDOWN:3 SHUTDOWN:all",
		"Payload Established":                 "RW:0 RW:1000 RW:credit RW:flags",
		"Nothing Established > CREDIT_UPDATE": "CREDIT_REQUEST",
		"Established > SHUTDOWN2":             "HostEnded",
		"Established > SHUTDOWN1":             "HostDeaf",
		"Established > SHUTDOWN3 > Closing":   "HostClosed",
		"Established":                         "Forwarded Next",
		"Established > CREDIT_REQUEST":        "AskCredit",
		"Dead RST":                            "Kill",
		"Dead":                                "Forget",
	},
	"Established, bytes wait": {
		"Violated Dead RST":                   "INVALID REQUEST RW:credit RW:credit+1 RW:2^32-1 op8 op65535",
		"Nothing Established":                 "RESPONSE CREDIT_UPDATE",
		"Gone Dead":                           "RST",
		"Shut Established":                    "SHUTDOWN:0 SHUTDOWN:2 SHUTDOWN:4",
		"Shut Established host1":              "SHUTDOWN:1 SHUTDOWN:3 SHUTDOWN:all",
		"Payload Established":                 "RW:0 RW:1000 RW:flags",
		"Nothing Established > CREDIT_UPDATE": "CREDIT_REQUEST",
		"Established > SHUTDOWN2":             "HostEnded",
		"Established > SHUTDOWN1":             "HostDeaf",
		"Established > SHUTDOWN3 > Closing":   "HostClosed",
		"Established":                         "Forwarded Next",
		"Established > CREDIT_REQUEST":        "AskCredit",
		"Dead RST":                            "Kill",
		"Dead":                                "Forget",
	},
	"guest shut SEND": {
		"Violated Dead RST":                   "INVALID REQUEST RW:0 RW:1000 RW:credit RW:credit+1 RW:2^32-1 RW:flags op8 op65535",
		"Nothing Established":                 "RESPONSE CREDIT_UPDATE",
		"Gone Dead":                           "RST",
		"Shut Established":                    "SHUTDOWN:0 SHUTDOWN:2 SHUTDOWN:4",
		"Shut Dead RST":                       "SHUTDOWN:1 SHUTDOWN:3 SHUTDOWN:all",
		"Nothing Established > CREDIT_UPDATE": "CREDIT_REQUEST",
		"Established > SHUTDOWN2":             "HostEnded",
		"Established > SHUTDOWN1":             "HostDeaf",
		"Established > SHUTDOWN3 > Closing":   "HostClosed",
		"Established":                         "Forwarded Next",
		"Established > CREDIT_REQUEST":        "AskCredit",
		"Dead RST":                            "Kill",
		"Dead":                                "Forget",
	},
	"guest shut SEND, bytes wait": {
		"Violated Dead RST":                       "INVALID REQUEST RW:0 RW:1000 RW:credit RW:credit+1 RW:2^32-1 RW:flags op8 op65535",
		"Nothing Established":                     "RESPONSE CREDIT_UPDATE",
		"Gone Dead":                               "RST",
		"Shut Established":                        "SHUTDOWN:0 SHUTDOWN:2 SHUTDOWN:4",
		"Shut Established host1":                  "SHUTDOWN:1 SHUTDOWN:3 SHUTDOWN:all",
		"Nothing Established > CREDIT_UPDATE":     "CREDIT_REQUEST",
		"Established > SHUTDOWN2":                 "HostEnded",
		"Established host2 > SHUTDOWN1":           "HostDeaf",
		"Established host2 > SHUTDOWN3 > Closing": "HostClosed",
		"Established host2":                       "Forwarded",
		"Established > CREDIT_REQUEST":            "AskCredit",
		"Dead RST":                                "Kill",
		"Dead":                                    "Forget",
		"Established":                             "Next",
	},
	"guest shut RCV": {
		"Violated Dead RST":                   "INVALID REQUEST RW:credit+1 RW:2^32-1 op8 op65535",
		"Nothing Established":                 "RESPONSE CREDIT_UPDATE",
		"Gone Dead":                           "RST",
		"Shut Established":                    "SHUTDOWN:0 SHUTDOWN:1 SHUTDOWN:4",
		"Shut Dead RST":                       "SHUTDOWN:2 SHUTDOWN:3 SHUTDOWN:all",
		"Payload Established":                 "RW:0 RW:1000 RW:credit RW:flags",
		"Nothing Established > CREDIT_UPDATE": "CREDIT_REQUEST",
		"Established > SHUTDOWN2":             "HostEnded",
		"Established > SHUTDOWN1":             "HostDeaf",
		"Established > SHUTDOWN3 > Closing":   "HostClosed",
		"Established":                         "Forwarded Next",
		"Established > CREDIT_REQUEST":        "AskCredit",
		"Dead RST":                            "Kill",
		"Dead":                                "Forget",
	},
	"guest shut both, bytes wait": {
		"Violated Dead RST":                   "INVALID REQUEST RW:0 RW:1000 RW:credit RW:credit+1 RW:2^32-1 RW:flags op8 op65535",
		"Nothing Established":                 "RESPONSE CREDIT_UPDATE",
		"Gone Dead":                           "RST",
		"Shut Established":                    "SHUTDOWN:0 SHUTDOWN:1 SHUTDOWN:2 SHUTDOWN:3 SHUTDOWN:4 SHUTDOWN:all",
		"Nothing Established > CREDIT_UPDATE": "CREDIT_REQUEST",
		"Established > SHUTDOWN2":             "HostEnded",
		"Dead RST":                            "HostDeaf HostClosed Forwarded Kill",
		"Established > CREDIT_REQUEST":        "AskCredit",
		"Dead":                                "Forget",
		"Established":                         "Next",
	},
	"host ended": {
		"Violated Dead RST":                   "INVALID REQUEST RW:credit+1 RW:2^32-1 op8 op65535",
		"Nothing Established":                 "RESPONSE CREDIT_UPDATE",
		"Gone Dead":                           "RST",
		"Shut Established":                    "SHUTDOWN:0 SHUTDOWN:4",
		"Shut Established host1":              "SHUTDOWN:1",
		"Shut Established host2":              "SHUTDOWN:2",
		"Shut Dead RST":                       "SHUTDOWN:3 SHUTDOWN:all",
		"Payload Established":                 "RW:0 RW:1000 RW:credit RW:flags",
		"Nothing Established > CREDIT_UPDATE": "CREDIT_REQUEST",
		"Established":                         "HostEnded Forwarded Next",
		"Established > SHUTDOWN3 > Closing":   "HostDeaf HostClosed",
		"Established > CREDIT_REQUEST":        "AskCredit",
		"Dead RST":                            "Kill",
		"Dead":                                "Forget",
	},
	"host deaf": {
		"Violated Dead RST":                     "INVALID REQUEST RW:credit+1 RW:2^32-1 op8 op65535",
		"Nothing Established":                   "RESPONSE CREDIT_UPDATE",
		"Gone Dead":                             "RST",
		"Shut Established":                      "SHUTDOWN:0 SHUTDOWN:4",
		"Shut Established host1":                "SHUTDOWN:1",
		"Shut Established host2":                "SHUTDOWN:2",
		"Shut Dead RST":                         "SHUTDOWN:3 SHUTDOWN:all",
		"Discarded Established":                 "RW:0 RW:1000 RW:flags",
		"Discarded Established > CREDIT_UPDATE": "RW:credit",
		"Nothing Established > CREDIT_UPDATE":   "CREDIT_REQUEST",
		"Established > SHUTDOWN3 > Closing":     "HostEnded HostClosed",
		"Established":                           "HostDeaf Forwarded Next",
		"Established > CREDIT_REQUEST":          "AskCredit",
		"Dead RST":                              "Kill",
		"Dead":                                  "Forget",
	},
	"host closed, untold": {
		"Violated Dead RST":                                       "INVALID REQUEST RW:credit+1 RW:2^32-1 op8 op65535",
		"Nothing Established > SHUTDOWN3 > Closing":               "RESPONSE CREDIT_UPDATE",
		"Nothing Established > SHUTDOWN3 CREDIT_UPDATE > Closing": "CREDIT_REQUEST",
		"Gone Dead":                                        "RST",
		"Shut Established > SHUTDOWN3 > Closing":           "SHUTDOWN:0 SHUTDOWN:4",
		"Shut Established host1 > SHUTDOWN3 > Closing":     "SHUTDOWN:1",
		"Shut Established host2 > SHUTDOWN3 > Closing":     "SHUTDOWN:2",
		"Shut Dead RST":                                    "SHUTDOWN:3 SHUTDOWN:all",
		"Discarded Established > SHUTDOWN3 > Closing":      "RW:0 RW:1000 RW:credit RW:flags",
		"Established > SHUTDOWN3 > Closing":                "HostEnded HostDeaf HostClosed Forwarded Next",
		"Established > SHUTDOWN3 CREDIT_REQUEST > Closing": "AskCredit",
		"Dead RST": "Kill",
		"Dead":     "Forget",
	},
	"Closing": {
		"Violated Dead RST":               "INVALID REQUEST RW:credit+1 RW:2^32-1 op8 op65535",
		"Nothing Closing":                 "RESPONSE CREDIT_UPDATE",
		"Gone Dead":                       "RST",
		"Shut Closing":                    "SHUTDOWN:0 SHUTDOWN:4",
		"Shut Closing host1":              "SHUTDOWN:1",
		"Shut Closing host2":              "SHUTDOWN:2",
		"Shut Dead RST":                   "SHUTDOWN:3 SHUTDOWN:all",
		"Discarded Closing":               "RW:0 RW:1000 RW:credit RW:flags",
		"Nothing Closing > CREDIT_UPDATE": "CREDIT_REQUEST",
		"Closing":                         "HostEnded HostDeaf HostClosed Forwarded AskCredit Next",
		"Dead RST":                        "Kill",
		"Dead":                            "Forget",
	},
	"Dead, RST owed": {
		"Nothing Dead RST": "INVALID REQUEST RESPONSE RST SHUTDOWN:0 SHUTDOWN:1 SHUTDOWN:2 SHUTDOWN:3 SHUTDOWN:4 " +
			"SHUTDOWN:all RW:0 RW:1000 RW:credit RW:credit+1 RW:2^32-1 RW:flags CREDIT_UPDATE " +
			"CREDIT_REQUEST op8 op65535",
		"Dead RST": "HostEnded HostDeaf HostClosed Forwarded AskCredit Kill Next",
		"Dead":     "Forget",
	},
	"Dead, forgotten": {
		"Nothing Dead": "INVALID REQUEST RESPONSE RST SHUTDOWN:0 SHUTDOWN:1 SHUTDOWN:2 SHUTDOWN:3 SHUTDOWN:4 " +
			"SHUTDOWN:all RW:0 RW:1000 RW:credit RW:credit+1 RW:2^32-1 RW:flags CREDIT_UPDATE " +
			"CREDIT_REQUEST op8 op65535",
		"Dead": "HostEnded HostDeaf HostClosed Forwarded AskCredit Kill Forget Next",
	},
}

// TestEveryStateAndEvent holds the connection against the table, in which no
// pair may be missing.
func TestEveryStateAndEvent(t *testing.T) {
	if len(table) != len(stands) {
		t.Errorf("%d stands in the table, want %d", len(table), len(stands))
	}
	for _, s := range stands {
		want := make(map[string]string)
		for outcome, names := range table[s.name] {
			for _, name := range strings.Fields(names) {
				if want[name] != "" {
					t.Errorf("%s, %s: twice in the table", s.name, name)
				}
				want[name] = outcome
			}
		}
		if len(want) != len(events) {
			t.Errorf("%s: %d events in the table, want %d", s.name, len(want), len(events))
		}
		for _, e := range events {
			c := s.conn()
			if got := outcome(&c, e); got != want[e.name] {
				t.Errorf("%s, %s: %q, want %q", s.name, e.name, got, want[e.name])
			}
		}
	}
}

// Every state is a stand of the table.
func TestTableHasEveryState(t *testing.T) {
	seen := make(map[csm.State]bool)
	for _, s := range stands {
		c := s.conn()
		seen[c.State()] = true
	}
	if len(seen) != csm.States {
		t.Errorf("%d states in the table, want %d", len(seen), csm.States)
	}
}
