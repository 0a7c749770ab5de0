package ledger

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// applicationID marks the file as a station's ledger in its SQLite header: "NPLD".
const applicationID = 0x4e504c44

// schemaVersion counts the files in schema/; a test holds them equal.
const schemaVersion = 1

// migrate brings the file to this program's schema, one transaction a step, so
// that a death in between leaves a file of some version and not of none.
func migrate(ctx context.Context, conn *sql.Conn) error {
	var version int
	if err := conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("reading schema version: %w", err)
	}
	for version < schemaVersion {
		version++
		text, err := schemaFiles.ReadFile(fmt.Sprintf("schema/%04d.sql", version))
		if err != nil {
			return fmt.Errorf("reading schema step %d: %w", version, err)
		}
		tx, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("beginning schema step %d: %w", version, err)
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, string(text)); err != nil {
			return fmt.Errorf("applying schema step %d: %w", version, err)
		}
		// A PRAGMA takes no parameters; these are our own numbers.
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, version)); err != nil {
			return fmt.Errorf("marking schema step %d: %w", version, err)
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("committing schema step %d: %w", version, err)
		}
	}
	return nil
}

// checkSchema refuses a file that is not a ledger or that a newer program wrote.
// An older one is for migrate; only the writer may do that.
func checkSchema(ctx context.Context, conn *sql.Conn, path string) (version int, err error) {
	var id int
	if err := conn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return 0, refuse("reading the ledger's header", err)
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return 0, refuse("reading the ledger's header", err)
	}
	switch {
	case id != applicationID:
		return 0, notALedger(path)
	case version > schemaVersion:
		return 0, tooNew(path, version)
	}
	return version, nil
}
