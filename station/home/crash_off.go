//go:build !crash

package home

import "nameplate/records"

// crashPoint is where a build for crash tests dies on command; this one cannot.
func crashPoint(string, records.Kind) {}
