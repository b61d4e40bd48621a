package tests

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// The adversarial tests face the daemon with everything that docs/ADVERSARIAL.md
// lists. One daemon takes all inputs of a table, one after another.

// input is one thing that an adversary does.
type input struct {
	name string      // begins with its number in the list
	do   func(*host) // sends it and checks what comes of it
}

// adversarial has every table of inputs by the test that goes through it.
var adversarial = map[string][]input{
	"TestAdversarialMessages":    messageInputs,
	"TestAdversarialSessions":    sessionInputs,
	"TestAdversarialRings":       ringInputs,
	"TestAdversarialPackedRings": packedInputs,
	"TestAdversarialPackets":     packetInputs,
	"TestAdversarialConnections": connectionInputs,
	"TestAdversarialSilence":     silenceInputs,
	"TestAdversarialTraps":       trapInputs,
}

// TestAdversarialListIsCovered wants an input for each number of the list, and a
// number for each input.
func TestAdversarialListIsCovered(t *testing.T) {
	list, err := os.ReadFile("../docs/ADVERSARIAL.md")
	if err != nil {
		t.Fatal(err)
	}
	missing := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9]+|T[0-9]+) \|`).FindAllSubmatch(list, -1) {
		missing[string(m[1])] = true
	}
	for n := range 100 {
		if number := fmt.Sprint(n + 1); !missing[number] {
			t.Errorf("number %s is not on the list", number)
		}
	}
	listed := maps.Clone(missing)
	for test, inputs := range adversarial {
		names := make(map[string]bool)
		for _, in := range inputs {
			number, _, _ := strings.Cut(in.name, " ")
			if !listed[number] {
				t.Errorf("%s: %q is not on the list", test, in.name)
			}
			if names[in.name] {
				t.Errorf("%s: %q is there twice", test, in.name)
			}
			names[in.name] = true
			delete(missing, number)
		}
		if !strings.Contains(string(list), "`"+test+"`") {
			t.Errorf("the list does not say that %s goes through it", test)
		}
	}
	for _, number := range slices.Sorted(maps.Keys(missing)) {
		t.Errorf("number %s has no test", number)
	}
}

// confront lets each input loose on one daemon. After each the daemon must be
// alive and at rest, must have let go of all that came with it, and must serve
// the next guest.
func confront(t *testing.T, h *host, inputs []input) {
	t.Helper()
	h.mustServe(t)
	files := h.descriptors()
	for _, in := range inputs {
		t.Run(in.name, func(t *testing.T) {
			s := &scope{TB: t}
			h.t = s
			func() {
				defer s.end()
				in.do(h)
			}()
			h.t = t
			h.mustBeAlive()
			h.await(0, "frontend_attached")
			h.mustIdle()
			h.mustServe(t)
			h.await(0, "frontend_attached")
			h.mustForget()
			vm.Eventually(t, patience, "no descriptor is left", func() bool { return h.descriptors() <= files+2 })
			if n := h.mappings(); n != 0 {
				t.Errorf("%d pieces of guests' memory are mapped", n)
			}
		})
	}
	h.t = t
}
