/** A server that `startPostgres` has started. */
export interface PostgresServer {
  host: string;
  port: number;
  folder: string;
  connectionString: string;
  log(): string;
  restart(mode?: string): void;
  stop(): void;
}
export function findPostgres(): string | undefined;
export function startPostgres(options?: { host?: string; settings?: Record<string, string | number> }): Promise<PostgresServer>;
