-- name: server_secret
-- Reads a secret of the installation, encrypted.
SELECT value_sealed FROM server_secrets WHERE name = $1;

-- name: insert_server_secret
-- Inserts a secret of the installation, unless another process was first.
INSERT INTO server_secrets (name, value_sealed) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;
