package csm_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain fails when a test leaves a descriptor behind.
func TestMain(m *testing.M) {
	if _, err := os.ReadFile("/proc/self/stat"); err != nil { // opens the runtime's own descriptors
		panic(err)
	}
	before := openFds()
	code := m.Run()
	fuzzing := flag.Lookup("test.fuzz").Value.String() != "" // its workers have descriptors of their own
	if after := openFds(); after != before && !fuzzing {
		fmt.Fprintf(os.Stderr, "descriptors: %d before the tests, %d after\n", before, after)
		code = 1
	}
	os.Exit(code)
}

func openFds() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}
