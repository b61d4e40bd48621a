//go:build race

package muxer_test

const raceEnabled = true
