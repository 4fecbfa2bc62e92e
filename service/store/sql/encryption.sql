-- name: server_secret
-- A secret of the installation itself, sealed.
SELECT value_sealed FROM server_secrets WHERE name = $1;

-- name: insert_server_secret
-- Makes such a secret unless another process was first.
INSERT INTO server_secrets (name, value_sealed) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;
