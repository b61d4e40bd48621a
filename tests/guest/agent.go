package main

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
)

// senderTurn is when the driver's own thread has run, which moves what was written
// into the ring: until then a power-off loses it inside the guest.
const senderTurn = 20 * time.Millisecond

// agent answers the host's requests.
type agent struct {
	mu       sync.Mutex // guards what follows
	gates    map[string]chan struct{}
	services map[uint32]*service
}

func newAgent() *agent {
	return &agent{gates: map[string]chan struct{}{}, services: map[uint32]*service{}}
}

func (a *agent) serve(l socket) error {
	for {
		c, err := l.accept()
		if err != nil {
			return err
		}
		go a.answer(c)
	}
}

// answer handles the one request of a control connection.
func (a *agent) answer(c socket) {
	defer c.Close()
	var req script.Request
	if err := json.NewDecoder(c).Decode(&req); err != nil {
		say("control connection: %v", err)
		return
	}
	resp, err := a.do(&req)
	if err != nil {
		resp.Error = err.Error()
	}
	if req.Then != "" {
		time.Sleep(senderTurn)
		a.do(&script.Request{Op: req.Then})
	}
	if err := json.NewEncoder(c).Encode(resp); err != nil {
		say("answer to %s: %v", req.Op, err)
	}
}

func (a *agent) do(req *script.Request) (script.Response, error) {
	switch req.Op {
	case script.Hello:
		return hello()
	case script.Listen:
		return script.Response{}, a.listen(req)
	case script.Reports:
		return a.reports(req)
	case script.Dial:
		return script.Response{Reports: a.dialAll(req)}, nil
	case script.Open:
		close(a.gate(req.Gate))
		return script.Response{}, nil
	case script.Rebind:
		err := rebind()
		say("rebind: %v", err)
		return script.Response{}, err
	case script.PowerOff:
		powerOff()
	case script.Reboot:
		reboot()
	}
	return script.Response{}, fmt.Errorf("unknown operation %q", req.Op)
}

func hello() (script.Response, error) {
	cid, err := localCID()
	if err != nil {
		return script.Response{}, err
	}
	device, err := vsockDevice()
	if err != nil {
		return script.Response{}, err
	}
	packed, err := hasFeature(device, ringPacked)
	return script.Response{CID: cid, Kernel: release(), Packed: packed}, err
}

// gate returns the channel that closes when the gate opens.
func (a *agent) gate(name string) chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gates[name] == nil {
		a.gates[name] = make(chan struct{})
	}
	return a.gates[name]
}

func (a *agent) wait(gate string) { <-a.gate(gate) }

// service is a listening port and the connections it had.
type service struct {
	mu      sync.Mutex // guards reports
	changed *sync.Cond
	reports []script.ConnInfo
}

func (a *agent) listen(req *script.Request) error {
	l, err := listen(req.Port, kindOf(req))
	if err != nil {
		return err
	}
	s := &service{}
	s.changed = sync.NewCond(&s.mu)
	a.mu.Lock()
	a.services[req.Port] = s
	a.mu.Unlock()
	go func() {
		for {
			c, err := l.accept()
			if err != nil {
				say("accept on port %d: %v", req.Port, err)
				return
			}
			go s.add(c, req.Steps, a.wait)
		}
	}()
	return nil
}

func (s *service) add(c socket, steps []script.Step, wait func(string)) {
	r := script.Run(c, steps, wait)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, script.ConnInfo{Report: r})
	s.changed.Broadcast()
}

func (a *agent) reports(req *script.Request) (script.Response, error) {
	a.mu.Lock()
	s := a.services[req.Port]
	a.mu.Unlock()
	if s == nil {
		return script.Response{}, fmt.Errorf("nothing listens on port %d", req.Port)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.reports) < req.Count {
		s.changed.Wait()
	}
	return script.Response{Reports: s.reports[:req.Count]}, nil
}

// dialAll makes the connections of a Dial, at most Parallel at a time.
func (a *agent) dialAll(req *script.Request) []script.ConnInfo {
	infos := make([]script.ConnInfo, max(1, req.Count))
	slots := make(chan struct{}, max(1, req.Parallel))
	var wg sync.WaitGroup
	for i := range infos {
		slots <- struct{}{}
		wg.Go(func() {
			infos[i] = a.dial(req)
			<-slots
		})
	}
	wg.Wait()
	return infos
}

func (a *agent) dial(req *script.Request) script.ConnInfo {
	begin := time.Now()
	c, err := dial(req.Port, kindOf(req))
	info := script.ConnInfo{Connect: time.Since(begin)}
	if err != nil {
		info.Fail("dial", err)
		return info
	}
	info.Report = script.Run(c, req.Steps, a.wait)
	return info
}
