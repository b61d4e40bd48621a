package muxer

// Answer is how a REQUEST was answered.
type Answer uint8

const (
	AnswerResponse Answer = iota // the connection is open
	AnswerRST                    // it was refused
	answers
)

// Answers names every Answer, in order.
var Answers = [answers]string{"response", "rst"}

// requested notes that a REQUEST is before the one who is to answer it: ours in the
// guest's ring, or the guest's with us.
func (c *conn) requested() { c.requestAt = c.m.loop.Now() }

// answered counts how long the REQUEST waited for its answer, unless it has one.
func (c *conn) answered(a Answer) {
	if c.requestAt == 0 {
		return
	}
	c.m.stats.Answered[c.opener()][a].Observe(c.m.loop.Now() - c.requestAt)
	c.requestAt = 0
}

// refuseRequest answers a guest's REQUEST by RST at once.
func (m *Muxer) refuseRequest(r reset, reason ResetReason) {
	m.stats.Answered[GuestInitiated][AnswerRST].Observe(0)
	m.pushReset(r, reason)
}
